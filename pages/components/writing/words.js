/** Numbers and sentences. */

import { STEERED, bandTop, levelOf, pace, steps, watchedBy } from "./answer.js";

export const percent = (strength) => `${strength < 0 ? "−" : "+"}${Math.abs(100 * strength).toFixed(1)} %`;

export const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(3).replace(/^0/, "")}`;

export function short(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const digits = Number.isInteger(value) ? 0 : Math.abs(value) < 10 ? 2 : 1;
  return value.toFixed(digits).replace(/^(-?)0\./, "$1.").replace("-", "−");
}

const tokens = (count) => `${count} ${count === 1 ? "token" : "tokens"}`;

export function statusOf(answer, stopping) {
  const speed = pace(answer) ? `${pace(answer).toFixed(0)} tokens/s` : "";
  const said = (...parts) => `· ${parts.filter(Boolean).join(", ")}`;
  if (!answer.end) return said(stopping ? "stopping" : steps(answer) ? "writing" : "reading the prompt", speed);
  const how = { failed: `failed after ${tokens(steps(answer))}`, stopped: `stopped after ${tokens(steps(answer))}`, length: `${tokens(steps(answer))}, the limit` };
  return said(how[answer.end.state] ?? tokens(steps(answer)), speed);
}

export const COLLAPSED =
  "This text has collapsed: it loops, or no longer reads as language. Turn the strength down and write again.";

/** [name, value, unit, explanation] of each figure under a column. */
export function metricsOf({ concepts, watched }, row) {
  const reading = row.reading;
  if (!reading) return [];
  const judged = concepts
    .filter(({ id }) => id in (reading.judge ?? {}))
    .map(({ id, name, unit }) => [name, short(reading.judge[id]), unit, `Judged without a model: ${unit}`]);
  const levels = watched.map(({ id, name, threshold }) => [
    `detector for ${name}`,
    short(levelOf(row, id)),
    `of ${short(threshold)}`,
    "Mean score of the last eight tokens, and the threshold that rings the alarm",
  ]);
  return [
    ...levels,
    ...judged,
    ["fluency", short(reading.nll), "nats/token", "Negative log-likelihood under the unsteered model; lower reads better, but a loop also scores low"],
    ["distinct-2", short(reading.distinct2), "", "Distinct token bigrams over all token bigrams; a loop has few"],
    ["longest repeat", short(reading.longest_repeat), "tokens", "Longest run of tokens that occurs again"],
  ];
}

/** Which alarms have rung in a row, and where first; "" while none has. */
export function alarmOf(answer, row) {
  const rung = answer.watched.filter(({ id }) => Number.isInteger(row.reading?.alarms?.[id]));
  return rung.length ? `▲ Alarm: ${rung.map(({ id, name }) => `${name}, from token ${row.reading.alarms[id] + 1}`).join("; ")}` : "";
}

/** What is known of one token. */
export function tokenFacts(answer, row, index) {
  const piece = (row ? row.pieces : answer.prompt)[index];
  const who = row ? row.title : "Prompt";
  const projections = row ? row.projections : answer.promptProjections;
  const parts = answer.concepts.map((concept, i) => {
    const strength = answer.strengths[index]?.[i];
    const written = row?.name === STEERED && strength !== undefined ? ` written at ${percent(strength)}` : "";
    const value = projections?.[concept.id]?.[index];
    const seen = Number.isFinite(value) ? ` projection ${signed(value)}` : "";
    return written || seen ? `${concept.name}${written}${written && seen ? "," : ""}${seen}` : "";
  });
  const scored = answer.watched.filter(({ id }) => Number.isFinite(row?.scores[id]?.[index]));
  parts.push(...scored.map(({ id, name }) => `detector for ${name} ${short(row.scores[id][index])}`));
  return `${who}, token ${index + 1} “${piece?.replaceAll("\n", "⏎")}”${parts.some(Boolean) ? ": " : ""}${parts.filter(Boolean).join("; ")}`;
}

export function legendOf(answer, tint, scale) {
  if (tint === "strength") {
    const tops = answer.concepts.map((concept) => `${concept.name} ${percent(bandTop(concept))}`);
    return `Tint of the steered text: strength in force when the token was written, as a share of the band's top (${tops.join(", ")}); concepts add up.`;
  }
  const detected = watchedBy(answer, tint);
  if (detected && !scale) return `The scores for ${detected.name} come with the next reading, every 16 tokens.`;
  if (detected)
    return `−${short(scale)} (dotted) to ${short(scale)} (solid line): score of the detector for ${detected.name} at each token, as the unsteered model reads the text. The alarm rings when the mean of the last eight passes ${short(detected.threshold)}.`;
  const { name, blocks } = answer.concepts.find(({ id }) => id === tint);
  if (!scale) return `The projections on ${name} come with the next reading, every 16 tokens.`;
  const [first, last] = blocks ?? [];
  const where = first === undefined ? "the steered blocks" : `blocks ${first} to ${last}`;
  return `${signed(-scale)} (dotted) to ${signed(scale)} (solid line): projection of each token on ${name}, as the unsteered model reads the text, in typical residual norms, averaged over ${where}; stronger ones get the full tint.`;
}

export function placeholders() {
  return [
    ["unsteered", "Unsteered", "The model as it is."],
    ["prompted", "Asked for in words", "The same concept, requested in the prompt: the baseline that steering must beat, and often doesn't."],
    [STEERED, "Steered", "A direction is added to the model’s inner state at every token. Move a slider while it writes."],
  ];
}
