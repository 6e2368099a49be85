/** An answer as the events tell it. No drawing here; `follow.js` brings the events, `draw.js` shows them. */

export const STEERED = "steered";
const NEARLY = 0.97; // the share of tokens within the scale
const USUAL_TOP = 0.05; // of the residual norm, where a concept has no usable band to measure against

export function emptyAnswer() {
  return {
    rows: [],
    concepts: [],
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
  answer.prompt = event.prompt_pieces ?? [];
  answer.rows = event.rows.map(({ name, title }) => ({ name, title, pieces: [], ended: false, reading: null, projections: {} }));
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

/** A reading has the figures of the whole text, but only the projections of the tokens from number `from` on. */
function read(answer, event) {
  event.rows.forEach(({ projections, ...figures }, i) => {
    const row = answer.rows[i];
    if (!row) return;
    row.reading = figures;
    for (const [concept, values] of Object.entries(projections ?? {})) {
      const kept = (row.projections[concept] ??= []);
      values.forEach((value, k) => (kept[(event.from ?? 0) + k] = value));
    }
  });
  Object.assign(answer.promptProjections, event.prompt_projections);
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

/**
 * The |projection| that gets the full tint, one for all columns: nearly the largest anywhere in the answer. Not that of
 * the prompt's first token, where models keep activations many times longer than elsewhere (an attention sink).
 */
export function projectionScale(answer, concept) {
  const read = answer.rows.flatMap((row) => row.projections[concept] ?? []);
  const all = [...read, ...(answer.promptProjections[concept] ?? []).slice(1)].filter(Number.isFinite).map(Math.abs);
  all.sort((a, b) => a - b);
  return all.length ? all[Math.floor(NEARLY * (all.length - 1))] : 0;
}

export function asJson(answer, about) {
  const rows = answer.rows.map(({ name, title, pieces, reading, projections }) => {
    return { name, title, text: pieces.join(""), tokens: pieces.length, metrics: reading ?? {}, pieces, projections };
  });
  const { type, ...start } = answer.start ?? {};
  const { type: _, ...end } = answer.end ?? { state: "unfinished" };
  return JSON.stringify({ ...about, ...start, rows, strengths: answer.strengths, ...end }, null, 1);
}
