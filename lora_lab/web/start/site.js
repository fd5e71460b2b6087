// Starts the page on a web host: modules and assets are files beside it, the assets packed as gzip.
{
  globalThis.playgroundAssets = async name => {
    const answer = await fetch(`assets/${name}.gz`);
    if (!answer.ok) throw new Error(`${name} could not be loaded (${answer.status})`);
    return new Response(answer.body.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
  };
  globalThis.playgroundAssets.names = ASSETS;
  globalThis.makeWorker = async () => new Worker(WORKER, { type: "module" });
  if (ENTRY) import(new URL(ENTRY, document.baseURI)).catch(sayFailed);
}
