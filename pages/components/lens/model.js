/** From the payload (payload.py) to typed arrays, and what can be looked up in them. No drawing, no DOM. */

const WEIGHT_UNIT = 65535; // as in payload.py
const LOG2_UNIT = 2000;

export function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

async function unpack({ dtype, data }) {
  const inflated = new Blob([bytesOf(data)]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(inflated).arrayBuffer();
  return new { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array }[dtype](buffer);
}

/** Replace every packed array inside a value by a typed array. */
async function unpackAll(value) {
  if (value === null || typeof value !== "object") return value;
  if (value.dtype) return unpack(value);
  if (Array.isArray(value)) return typeof value[0] === "object" ? Promise.all(value.map(unpackAll)) : value;
  const pairs = Object.entries(value).map(async ([name, item]) => [name, await unpackAll(item)]);
  return Object.fromEntries(await Promise.all(pairs));
}

/** Return the payload with its arrays unpacked and what follows from them. */
export async function decode(payload) {
  if (!globalThis.DecompressionStream) throw new Error("this browser is too old, it lacks DecompressionStream");
  const model = await unpackAll(payload);
  const { channels, height, width, done, sources, network } = model;
  model.cells = height * width;
  model.frame = channels * model.cells;
  model.hasNetwork = Boolean(network.denoised || network.final);
  model.differenceLimit = model.hasNetwork ? differenceLimit(model) : 1;
  if (sources) {
    const most = model.effective_log2.reduce((high, u) => Math.max(high, u), 0) / LOG2_UNIT;
    model.atlas = await createImageBitmap(new Blob([bytesOf(sources.png)], { type: "image/png" }));
    model.topK = model.top.weight.length / (done * model.cells);
    model.decades = Math.max(1, Math.ceil(most * Math.log10(2) - 0.01)); // of effective sources
  }
  model.standard = sources ? clearestPixel(model) : [height >> 1, width >> 1];
  return model;
}

/** The bytes of one image, one plane of H·W after another. */
export function frameOf(model, images, kind, step) {
  return images.final ?? images[kind].subarray(step * model.frame, (step + 1) * model.frame);
}

/** The part of a table of one number per pixel that belongs to a step. */
export function sliceOf(model, table, step) {
  return table.subarray(step * model.cells, (step + 1) * model.cells);
}

/** What a byte of 255 stands for: estimates fill −1 to 1, noisy states a wider range at each step. */
export const rangeOf = (model, kind, step) => (kind === "noisy" ? model.noisy_range[step] : 1);

/** The values of a pixel, one for each channel. */
export function valuesAt(model, images, kind, step, [y, x]) {
  const bytes = frameOf(model, images, kind, step);
  const range = images.final ? 1 : rangeOf(model, kind, step);
  const value = (_, c) => (bytes[c * model.cells + y * model.width + x] / 127.5 - 1) * range;
  return Array.from({ length: model.channels }, value);
}

/** The signed difference of two images' bytes at pixel i, channels averaged, in units of 255/2. */
export function differenceAt(model, machine, network, i) {
  let sum = 0;
  for (let c = 0; c < model.channels; c++) sum += machine[c * model.cells + i] - network[c * model.cells + i];
  return sum / model.channels / 127.5;
}

/** A round limit that all but the largest differences of the run stay within. */
function differenceLimit(model) {
  const all = [];
  for (let step = 0; step < model.done; step++) {
    const pair = [model.machine_images, model.network].map((images) => frameOf(model, images, "denoised", step));
    for (let i = 0; i < model.cells; i++) all.push(Math.abs(differenceAt(model, ...pair, i)));
  }
  const high = Float32Array.from(all).sort()[Math.floor(0.995 * (all.length - 1))] ?? 1;
  return [0.25, 0.5, 1].find((limit) => high <= limit) ?? 2;
}

const indexOf = (model, step, [y, x]) => step * model.cells + y * model.width + x;

export const effectiveAt = (model, step, pixel) => 2 ** (model.effective_log2[indexOf(model, step, pixel)] / LOG2_UNIT);

/** Effective sources of a step's pixel i on the map's logarithmic scale, 0 to 1. */
export function effectiveShare(model, step, i) {
  return (model.effective_log2[step * model.cells + i] / LOG2_UNIT) * (Math.log10(2) / model.decades);
}

/** The training set's id of the source a mosaic has chosen for a step's pixel i. */
export function chosenSource(model, mosaic, step, i) {
  const at = step * model.cells + i;
  return model.sources.ids[model.top.index[at * model.topK + mosaic.choice[at]]];
}

export const chosenRank = (model, mosaic, step, pixel) => mosaic.choice[indexOf(model, step, pixel)];

/** The heaviest sources of a pixel, without those that weigh nothing beside the first. */
export function sourcesOf(model, step, pixel) {
  const { top, topK, sources } = model;
  const from = indexOf(model, step, pixel) * topK;
  const found = [];
  for (let rank = 0; rank < topK; rank++) {
    const [index, weight] = [top.index[from + rank], top.weight[from + rank] / WEIGHT_UNIT];
    const negligible = found.length > 0 && weight < Math.min(0.0005, found[0].weight / 20);
    if (index >= sources.ids.length || negligible) continue;
    found.push({ rank, index, id: sources.ids[index], weight, place: [top.y[from + rank], top.x[from + rank]] });
  }
  return found;
}

/** The pixel nearest to the middle that has a single source at the end. */
function clearestPixel(model) {
  const { width, height, done } = model;
  const muted = sliceOf(model, model.muted, done - 1);
  const distance = (i) => Math.hypot(Math.floor(i / width) - height / 2, (i % width) - width / 2) + 1e3 * muted[i];
  const best = muted.reduce((nearest, _, i) => (distance(i) < distance(nearest) ? i : nearest), 0);
  return [Math.floor(best / width), best % width];
}
