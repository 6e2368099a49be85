/** Everything the lens says, as plain strings. */

import { effectiveAt, rangeOf, valuesAt } from "./model.js";

/** A number as the papers write it: .40, −.97. */
export function decimal(value, digits = 2) {
  const text = Math.abs(value).toFixed(digits).replace(/^0\./, ".");
  return value < 0 && Number(text) !== 0 ? `−${text}` : text;
}

export const percent = (weight) => (weight < 0.0005 ? "< .1 %" : `${decimal(100 * weight, 1)} %`);
const count = (value) => (value < 9.95 ? value.toFixed(1) : Number(value.toPrecision(3)).toLocaleString("en"));
const tileCount = (tiles, area) =>
  tiles === 1 ? `1 tile, ${area} pixels` : `${tiles} tiles, mean ${area.toFixed(1)} pixels`;
export const spot = (pixel) => `(${pixel.join(", ")})`;
export const timeOf = (model, step) => `t = ${decimal(model.t[step])}`;

/** The sentence under each figure: what one looks at, in which units, with the caveat. */
export function captions({ model, view, step, kind, mosaic }) {
  const time = timeOf(model, step);
  const range = decimal(rangeOf(model, kind, step), 1).replace(/\.0$/, "");
  const grey = `grey from −${range} (black) to ${range} (white)`;
  const scale = model.channels === 1 ? grey : `colours from −${range} to ${range}`;
  const noisy = `noisy state (${Math.round(100 * model.alpha_bar[step])} % of its variance is signal)`;
  const caveat = model.partial ? `step ${model.done} of ${model.steps} so far` : "no part of it was trained";
  const near = mosaic && `a source within a factor ${Number(mosaic.factor.toFixed(2))} of the heaviest`;
  const chosen = mosaic?.factor > 1 ? near : "the heaviest source";
  const tiles = mosaic && tileCount(mosaic.tiles[step], mosaic.area[step]);
  const estimate = "its estimate of the finished image";
  const texts = {
    image: () => `${time}: ${kind === "noisy" ? `its ${noisy}` : estimate}, ${scale}; ${caveat}.`,
    mosaic: () =>
      `${time}, coloured by source image: each outlined tile is copied from one training image (${chosen}); ` +
      `${tiles}; hatched: no single source.`,
    stitched: () =>
      `${time}, stitched: every pixel is ${chosen}'s own, on the same scale; hatched: no single source, ` +
      "so the choice among like patches is arbitrary.",
    sources: () =>
      `${time}: effective number of training patches behind each pixel, 1/Σw², logarithmic; 1 is a copy, ` +
      "many an average; identical patches count one by one.",
    difference: () =>
      `${time}: signed difference theory − network, in units of the scale from −1 to 1` +
      `${model.channels > 1 ? ", channels averaged" : ""}; lighter: theory brighter, darker: network brighter.`,
    wipe: () =>
      `${time}, left of the divider, network (${model.network.name}) right of it: ` +
      `${kind === "noisy" ? "both noisy states" : "both estimates"} from the same noise, ${scale}.`,
  };
  const network =
    model.network.final ? "the finished image from the same noise; its steps were not kept."
    : `${time}: its ${kind === "noisy" ? "own noisy state" : "estimate"} from the same noise, ${scale}; ` +
      "the theory's window is drawn for comparison only.";
  return {
    left: [`Theory (${model.machine})`, `, ${texts[view]()}`],
    right: model.hasNetwork ? [`Network (${model.network.name})`, `, ${network}`] : ["", ""],
  };
}

/** What the three enlargements of a pinned pixel show, as [head, text]. */
export function detailCaptions({ model, step, kind, pin }, source) {
  const state = kind === "noisy" ? "noisy state" : "estimate";
  return [
    [`Training image #${source.id}`, `, ${percent(source.weight)} of pixel ${spot(pin)}.`],
    ["Its patch", `, around its pixel ${spot(source.place)}.`],
    ["The image's own window", `, around pixel ${spot(pin)}: ${state} at ${timeOf(model, step)}.`],
  ];
}

/** What the two figures are called for those who can't see them. */
export function imageLabels({ model, step }) {
  const keys = "Arrow keys move the pixel, Enter pins it, Escape lets go, space plays.";
  const network = `The network's image at ${timeOf(model, step)}`;
  return {
    left: `The theory's image, ${model.width} by ${model.height} pixels. ${keys}`,
    right: model.hasNetwork ? network : "No network image",
  };
}

/** One line on a pixel; separators stay at the end of a line that wraps. */
export function facts({ model, step, kind, focus }) {
  const value = (images) => {
    const values = valuesAt(model, images, kind, step, focus).map((each) => decimal(each));
    return values.length === 1 ? values[0] : `(${values.join(", ")})`;
  };
  const found = [`pixel ${spot(focus)}`, timeOf(model, step)];
  found.push(model.window === "whole" ? "window: whole image" : `window P = ${model.patch_sizes[step]}`);
  if (model.sources) found.push(`effective sources ${count(effectiveAt(model, step, focus))}`);
  found.push(`theory ${value(model.machine_images)}`);
  if (model.hasNetwork) found.push(`network ${value(model.network)}`);
  if (!model.sources) found.push("its training patches appear when the run is done");
  return found.map((fact) => fact.replaceAll(" ", "\u00a0")).join("\u00a0· ");
}

/** What a screen reader is told, once a pixel has been looked at for a moment. */
export function announcement({ model, step, focus, pin }, found, rest) {
  const sources = found.slice(0, 3).map(({ id, weight }) => `${percent(weight)} from training image ${id}`);
  const pinned = pin?.join() === focus.join() ? "Pinned. " : "";
  const where = `Pixel row ${focus[0]}, column ${focus[1]}, at t ${decimal(model.t[step])}`;
  return `${pinned}${where}: ${sources.join(", ")}; beyond the ${found.length} shown ${percent(rest)}.`;
}

/** The comparison of the finished images, as [class, text] lines; the headline is r. */
export function scoreLines({ scores, nearest, machine, network }) {
  const figure = (value) => (value === null || value === undefined ? "undefined" : decimal(value, 3));
  const lines = [];
  if (scores.machine) {
    lines.push(["small", `correlation of the two finished images, ${machine} and ${network.name}`]);
    lines.push(["headline", `r = ${figure(scores.machine.r)}`]);
    lines.push(["small", `r² ${figure(scores.machine.r2)} · R² ${figure(scores.machine.R2)}`]);
  }
  if (scores.ideal) lines.push(["small", `ideal score machine (memorises): r\u00a0=\u00a0${figure(scores.ideal.r)}`]);
  const near = Object.entries({ theory: nearest.machine, network: nearest.network }).filter(([, found]) => found);
  const each = near.map(([who, { id, distance }]) => `${who} #${id}, distance ${decimal(distance)} per pixel`);
  if (each.length) lines.push(["small", `nearest training image: ${each.join("; ")}`]);
  return lines;
}
