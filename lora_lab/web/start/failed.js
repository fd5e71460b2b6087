// Writes into the page why it could not be started; no other part is loaded by then.
const sayFailed = error => {
  const said = document.createElement("p");
  said.setAttribute("role", "alert");
  said.textContent = typeof DecompressionStream === "undefined"
    ? "This browser is too old for this page: it cannot unpack its files. A Chromium or Safari of "
      + "early 2023, a Firefox of mid 2023, or a later one can."
    : `The page could not be started: ${error.message}`;
  document.body.prepend(said);
};
