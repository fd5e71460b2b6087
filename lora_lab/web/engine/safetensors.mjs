// Tensors in safetensors files: pocket's 16-bit weights read, an adapter written.

// The tensors of a file by name: {shape, data}, data as Float32Array. Only F16 and F32 are known.
export function readTensors(buffer) {
  const size = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, size)));
  const tensors = {};
  delete header.__metadata__;
  for (const [name, { dtype, shape, data_offsets: [from, to] }] of Object.entries(header)) {
    const bytes = buffer.slice(8 + size + from, 8 + size + to);
    if (dtype !== "F16" && dtype !== "F32") {
      throw new Error(`${name} is kept as ${dtype}, which is not read here; give F16 or F32`);
    }
    const data = dtype === "F32" ? new Float32Array(bytes) : fromHalf(new Uint16Array(bytes));
    tensors[name] = { shape, data };
  }
  return tensors;
}

// 16-bit floats as 32-bit ones: sign, 5 bits of exponent, 10 of fraction.
function fromHalf(halves) {
  const values = Float32Array.from({ length: 0x8000 }, (_, bits) => {
    const exponent = bits >> 10, fraction = bits & 0x3ff;
    if (exponent === 31) return fraction ? NaN : Infinity;
    return exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -24 * fraction;
  });
  return Float32Array.from(halves, bits => (bits & 0x8000 ? -values[bits & 0x7fff] : values[bits]));
}

// A file of 32-bit floats, as PEFT writes and reads it. tensors: {name: {shape, data}}.
export function writeTensors(tensors) {
  const header = { __metadata__: { format: "pt" } };
  const names = Object.keys(tensors).sort();
  let end = 0;
  for (const name of names) {
    const { shape, data } = tensors[name];
    header[name] = { dtype: "F32", shape, data_offsets: [end, (end += data.byteLength)] };
  }
  let text = JSON.stringify(header);
  text += " ".repeat(-text.length & 7); // the data begin at a multiple of 8 bytes
  const words = new TextEncoder().encode(text), file = new Uint8Array(8 + words.length + end);
  new DataView(file.buffer).setBigUint64(0, BigInt(words.length), true);
  file.set(words, 8);
  for (const name of names) {
    const { data } = tensors[name], at = 8 + words.length + header[name].data_offsets[0];
    file.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), at);
  }
  return file.buffer;
}
