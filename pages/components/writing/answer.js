/** An answer as the events tell it. No drawing here; `follow.js` brings the events, `draw.js` shows them. */

export const STEERED = "steered";
const NEARLY = 0.97; // the share of tokens within the scale
const WINDOW = 8; // tokens whose mean score rings an alarm, as in lm_core.llm.detector
const DETECTOR = "detector:"; // before the id of what is watched for, in the name of a tint
const USUAL_TOP = 0.05; // of the residual norm, where a concept has no usable band to measure against

export function emptyAnswer() {
  return {
    rows: [],
    concepts: [],
    watched: [],
    prompt: [],
    promptProjections: {},
    strengths: [],
    start: null,
    end: null,
    first: null,
    latest: null,
  };
}

/** Take one event in; return the answer. Unknown kinds are left alone, so that the core may grow. */
export function absorb(answer, event, now = performance.now()) {
  if (event.type === "start") begin(answer, event);
  else if (event.type === "token") write(answer, event, now);
  else if (event.type === "reading") read(answer, event);
  else if (event.type === "end") answer.end = event;
  return answer;
}

function begin(answer, event) {
  answer.start = event;
  answer.concepts = event.concepts ?? [];
  answer.watched = event.watched ?? [];
  answer.prompt = event.prompt_pieces ?? [];
  answer.rows = event.rows.map(({ name, title }) => ({ name, title, pieces: [], ended: false, reading: null, projections: {}, scores: {} }));
}

function write(answer, event, now) {
  answer.strengths.push(event.strengths);
  answer.first ??= now;
  answer.latest = now;
  event.pieces.forEach((piece, i) => {
    const row = answer.rows[i];
    if (piece === null) row.ended = true;
    else if (row) row.pieces.push(piece);
  });
}

/** A reading has the figures of the whole text, but projections and scores only of the tokens from number `from` on. */
function read(answer, event) {
  event.rows.forEach(({ projections, scores, ...figures }, i) => {
    const row = answer.rows[i];
    if (!row) return;
    row.reading = figures;
    place(row.projections, projections, event.from ?? 0);
    place(row.scores, scores, event.from ?? 0);
  });
  Object.assign(answer.promptProjections, event.prompt_projections);
}

function place(kept, values, from) {
  for (const [name, new_] of Object.entries(values ?? {})) {
    const own = (kept[name] ??= []);
    new_.forEach((value, k) => (own[from + k] = value));
  }
}

export const steps = (answer) => answer.strengths.length;

/** Tokens a second: the writer's own figure once it has ended, until then ours. */
export function pace(answer) {
  if (answer.end) return answer.end.tokens_per_second ?? null;
  const seconds = (answer.latest - answer.first) / 1000;
  return steps(answer) > 3 && seconds > 0.2 ? (steps(answer) - 1) / seconds : null;
}

export function bandTop(concept) {
  return Math.max(...(concept.band ?? []).map(Math.abs), 0) || USUAL_TOP;
}

/** The strength of all concepts together at one token: 1 is the top of a concept's usable band. */
export function share(answer, step) {
  const strengths = answer.strengths[step] ?? [];
  return answer.concepts.reduce((sum, concept, i) => sum + Math.abs(strengths[i] ?? 0) / bandTop(concept), 0);
}

export const detectorTint = (id) => DETECTOR + id;

/** What a tint's detector watches for; undefined for a tint that is none. */
export const watchedBy = (answer, tint) => answer.watched.find(({ id }) => detectorTint(id) === tint);

/** The figures that tint a row's tokens: a detector's scores, or projections. */
export const figuresOf = (answer, row, tint) => (watchedBy(answer, tint) ? row.scores[watchedBy(answer, tint).id] : row.projections[tint]);

/** What an alarm goes by at the last token that was read: the mean score of the last eight. */
export function levelOf(row, id) {
  const last = (row.scores[id] ?? []).slice(-WINDOW);
  return last.length ? last.reduce((sum, each) => sum + each, 0) / last.length : null;
}

/**
 * The |figure| that gets the full tint, one for all columns: nearly the largest anywhere in the answer. Not that of
 * the prompt's first token, where models keep activations many times longer than elsewhere (an attention sink).
 */
export function tintScale(answer, tint) {
  const read = answer.rows.flatMap((row) => figuresOf(answer, row, tint) ?? []);
  const all = [...read, ...(answer.promptProjections[tint] ?? []).slice(1)].filter(Number.isFinite).map(Math.abs);
  all.sort((a, b) => a - b);
  return all.length ? all[Math.floor(NEARLY * (all.length - 1))] : 0;
}

export function asJson(answer, about) {
  const rows = answer.rows.map(({ name, title, pieces, reading, projections, scores }) => {
    return { name, title, text: pieces.join(""), tokens: pieces.length, metrics: reading ?? {}, pieces, projections, scores };
  });
  const { type, ...start } = answer.start ?? {};
  const { type: _, ...end } = answer.end ?? { state: "unfinished" };
  return JSON.stringify({ ...about, ...start, rows, strengths: answer.strengths, ...end }, null, 1);
}
