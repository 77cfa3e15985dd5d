// What a served page fetches.

const SERVED = location.protocol.startsWith("http");

/** Fetch a JSON file, also a compressed one. If it is unchanged, the browser uses its cache. */
async function fetchJson(name) {
  const response = await fetch(name, { cache: "no-cache" });
  if (!response.ok) throw new Error(response.statusText);
  if (!name.endsWith(".gz")) return response.json();
  const data = await response.blob();
  const [first, second] = new Uint8Array(await data.slice(0, 2).arrayBuffer());
  const packed = first === 0x1f && second === 0x8b; // some servers unpack it
  return new Response(packed ? data.stream().pipeThrough(new DecompressionStream("gzip")) : data).json();
}
