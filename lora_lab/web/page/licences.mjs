// The licences of others' software in the page: shown when a person asks for them.

/** Fills `details` when it is opened: from this file, or from LICENSES.txt beside it on a host. */
export function licences(details) {
  const shown = details.querySelector("pre");
  details.addEventListener(
    "toggle",
    async () => {
      const own = document.getElementById("licences");
      try {
        shown.textContent = own?.textContent ?? (await textOf("LICENSES.txt"));
      } catch (error) {
        shown.textContent = `LICENSES.txt, beside this page, could not be read: ${error.message}`;
      }
    },
    { once: true },
  );
}

async function textOf(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`the host answered ${answer.status}`);
  return answer.text();
}
