// The exported graphs: loaded by onnxruntime-web, and run by name.

export class Parts {
  /** Reads `manifest.json` of `folder`; `ort` is the module of onnxruntime-web. */
  static async open(ort, folder, progress = () => {}) {
    const manifest = await (await get(`${folder}manifest.json`)).json();
    const sessions = new Map(), entries = Object.entries(manifest.parts);
    for (const [number, [name, part]] of entries.entries()) {
      progress(name, number / entries.length);
      const file = part.variants[part.chosen].file;
      const bytes = await (await get(folder + file)).arrayBuffer();
      sessions.set(name, await ort.InferenceSession.create(bytes, {executionProviders: ["wasm"]}));
    }
    return new Parts(ort, manifest, sessions);
  }

  constructor(ort, manifest, sessions) { Object.assign(this, {ort, manifest, sessions}); }

  has(name) { return this.sessions.has(name); }

  constants(name) { return this.manifest.parts[name].constants; }

  run(name, inputs) { return this.sessions.get(name).run(inputs); }

  float32(values, shape) { return new this.ort.Tensor("float32", Float32Array.from(values), shape); }

  int64(values, shape) { return new this.ort.Tensor("int64", BigInt64Array.from(values, BigInt), shape); }

  /** Zeros as the state before the first step: a batch of one, and no entries on other free axes. */
  start(name, input) {
    const {shape} = this.manifest.parts[name].inputs.find(one => one.name === input);
    const sizes = shape.map((size, axis) => typeof size === "number" ? size : axis === firstFree(shape) ? 1 : 0);
    return this.float32(new Float32Array(sizes.reduce((one, other) => one * other, 1)), sizes);
  }
}

const firstFree = shape => shape.findIndex(size => typeof size !== "number");

async function get(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path} cannot be read (${response.status}): serve the whole exported folder`);
  return response;
}
