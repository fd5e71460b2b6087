#!/usr/bin/env bash
# Puts the course onto a machine that has The Littlest JupyterHub: `sudo deploy/install.sh WHEEL`.
# It may be run again, for example with a newer wheel. README.md says what each part is for.
set -euo pipefail
umask 022 # what is written here can be read by all learners

if [ $# -ne 1 ] || [ ! -f "$1" ]; then
	echo "Usage: sudo $0 lora_lab-VERSION-py3-none-any.whl" >&2
	echo "The wheel is built by: python -m hatchling build -t wheel" >&2
	exit 2
fi
wheel=$(realpath "$1")
script=$(realpath "$0")
here="${script%/*}"
user=/opt/tljh/user      # the environment of all learners
config=/opt/tljh/config  # the hub's settings
shared=/srv/lora-lab     # what learners share
lessons=/etc/skel/lora-lab # is copied into the home of each new learner

if [ "$(id -u)" -ne 0 ]; then
	echo "This writes into $user and /srv: run it with sudo." >&2
	exit 1
fi
if [ ! -x "$user/bin/python" ]; then
	echo "There is no $user/bin/python: install The Littlest JupyterHub first." >&2
	exit 1
fi
if ! "$user/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
	echo "$user has an older Python than 3.11, which the course needs. This makes it newer:" >&2
	echo "  sudo $user/bin/mamba install --prefix $user 'python=3.12'" >&2
	exit 1
fi

echo "1. The course, for all learners"
if [ -n "${TORCH_INDEX:-}" ] && ! "$user/bin/python" -c 'import torch' 2>/dev/null; then
	"$user/bin/python" -m pip install torch --index-url "$TORCH_INDEX"
fi
"$user/bin/python" -m pip install "$wheel" # with what it needs
"$user/bin/python" -m pip install --force-reinstall --no-deps "$wheel" # also of the same version
cp -R "$here/user/." "$user/" # limits of kernels, settings of JupyterLab

echo "2. Bases and texts, once, where all can read them"
install -d -m 755 "$shared" "$shared/cache"
export LORA_LAB_CACHE="$shared/cache" OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
"$user/bin/lora-lab" prepare
"$user/bin/python" "$here/warm_up.py" # what is measured once is measured now, not thirty times
chmod -R a+rX,go-w "$shared/cache"

echo "3. The folder of the class's board: everybody may add a file, and only change their own"
install -d -m 1777 "$shared/class"

echo "4. The lessons, for each new learner's home"
rm -rf "$lessons"
"$user/bin/lora-lab" class release "$lessons"

echo "5. The hub's settings"
install -d "$config/jupyterhub_config.d"
cp "$here/jupyterhub_config.d/lora_lab.py" "$config/jupyterhub_config.d/"
while read -r key value; do
	tljh-config set "$key" "$value"
done <<'KEYS'
limits.memory 4G
limits.cpu 2
services.cull.enabled true
services.cull.timeout 3600
services.cull.every 300
user_environment.default_app jupyterlab
KEYS
tljh-config reload hub

echo "Ready. Log in, run the pre-flight cell of the instructor's guide, and then let the class in."
