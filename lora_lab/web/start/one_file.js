// Starts the page that is one file: modules and assets stand inside it, packed as gzip in base64.
{
  const bytesOf = text => {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text); // newer, and faster
    const letters = atob(text), bytes = new Uint8Array(letters.length);
    for (let at = 0; at < letters.length; at++) bytes[at] = letters.charCodeAt(at);
    return bytes;
  };
  const unpack = async name => {
    const bytes = bytesOf(document.getElementById(`packed-${name}`).textContent);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  };

  // From a file, a worker can import "data:" addresses alone: not "blob:", and no other files.
  const urls = new Map();
  const urlOf = (sources, path) => {
    if (!urls.has(path)) {
      const [source, imports] = sources[path];
      let text = source;
      for (const [name, target] of Object.entries(imports)) {
        text = text.replaceAll(JSON.stringify(name), () => `"${urlOf(sources, target)}"`);
      }
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
      ({ message }) => postMessage(
        { type: "error", words: "The engine could not be started: " + message }),
    );`;

  globalThis.playgroundAssets = unpack;
  globalThis.playgroundAssets.names = ASSETS;
  const sources = unpack("modules").then(packed => JSON.parse(new TextDecoder().decode(packed)));
  globalThis.makeWorker = async () => {
    const url = urlOf(await sources, WORKER);
    const blob = new Blob([inWorker(url)], { type: "text/javascript" });
    return new Worker(URL.createObjectURL(blob));
  };
  sources.then(found => ENTRY && import(urlOf(found, ENTRY))).catch(sayFailed);
}
