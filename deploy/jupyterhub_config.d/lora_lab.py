"""The course's JupyterHub settings for which The Littlest JupyterHub has no key of its own."""

c = get_config()  # noqa: F821 - JupyterHub gives it to each file of settings

c.Spawner.environment.update(
    {
        # One thread a process. Two threads of one learner would fight with those of the others,
        # and a small model is no faster with two.
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        # What a training has freed goes back to the system from 1 MB on. By itself glibc keeps it:
        # after two steps on smollm2 a process held 972 MB, and 688 MB with this (its weights are
        # 256 MB of either). On pocket it changed neither memory nor time.
        "MALLOC_TRIM_THRESHOLD_": "1048576",
        # The bases and texts that `lora-lab prepare` fetched once. Learners can only read them, and
        # map the weights: the system keeps one copy in memory for all.
        "LORA_LAB_CACHE": "/srv/lora-lab/cache",
        # pocket, the model of nearly all lessons, is no faster on a GPU. README.md says more.
        "CUDA_VISIBLE_DEVICES": "",
    }
)

c.Spawner.default_url = "/lab/tree/lora-lab/00_start_here.ipynb"  # where a learner arrives
c.Spawner.start_timeout = 180  # seconds; thirty servers that start at once need more than 60
c.Spawner.http_timeout = 180  # likewise, until the server answers
c.JupyterHub.concurrent_spawn_limit = 10  # the others of the thirty wait, and are started then

c.SystemdSpawner.isolate_tmp = True  # a /tmp for each learner: sweeps put their packages there
