// Starts the page that is one file: modules and assets stand inside it, packed as gzip in base64.
{
  const MODULES = "modules";
  const unpack = async name => {
    const packed = document.getElementById(`packed-${name}`).textContent;
    const bytes = Uint8Array.from(atob(packed), letter => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  };

  // From a file, a worker can import "data:" addresses alone: not "blob:", and no other files.
  const urls = new Map();
  const urlOf = (sources, path) => {
    if (!urls.has(path)) {
      const [source, imports] = sources[path];
      const text = Object.entries(imports).reduce(
        (changed, [name, target]) => changed.replaceAll(JSON.stringify(name), () => `"${urlOf(sources, target)}"`),
        source,
      );
      const named = `${text}\n//# sourceURL=${path}\n`; // for messages of errors
      urls.set(path, `data:text/javascript;charset=utf-8,${encodeURIComponent(named)}`);
    }
    return urls.get(path);
  };

  // A worker waits for its module with the messages that come before.
  const inWorker = url => `
    const early = [];
    self.onmessage = event => early.push(event);
    import("${url}").then(
      () => early.forEach(event => self.onmessage(event)),
      error => postMessage({ type: "error", words: "The engine could not be started: " + error.message }),
    );`;

  globalThis.playgroundAssets = unpack;
  globalThis.playgroundAssets.names = ASSETS;
  const sources = unpack(MODULES).then(packed => JSON.parse(new TextDecoder().decode(packed)));
  globalThis.makeWorker = async () => {
    const url = urlOf(await sources, WORKER);
    const blob = new Blob([inWorker(url)], { type: "text/javascript" });
    return new Worker(URL.createObjectURL(blob));
  };
  if (ENTRY) sources.then(found => import(urlOf(found, ENTRY)));
}
