/** Bring the events of a stream: an EventSource, which reconnects by itself; after two failures in a row, polling. */

const FAILURES = 2;
const POLL_MS = 600;
const PATIENCE = 25; // failed polls in a row before the connection counts as lost

export class Follower {
  constructor(stream, { onEvent, onLost }) {
    Object.assign(this, { address: `/stream/${encodeURIComponent(stream)}`, onEvent, onLost, seen: 0, failures: 0 });
    this.source = new EventSource(this.address);
    this.source.onmessage = (message) => {
      this.failures = 0;
      this.take(Number(message.lastEventId), JSON.parse(message.data));
    };
    this.source.onerror = () => this.stumble();
  }

  /** Hand an event on, each once and in order, whatever is sent again. */
  take(index, event) {
    if (index !== this.seen) return;
    this.seen += 1;
    if (event.type === "end") this.close();
    this.onEvent(event);
  }

  stumble() {
    this.failures += 1;
    const refused = this.source.readyState === EventSource.CLOSED;
    if (!refused && this.failures < FAILURES) return;
    this.source.close();
    this.failures = 0;
    this.poll();
  }

  async poll() {
    if (this.closed) return;
    try {
      const answer = await fetch(`${this.address}?since=${this.seen}`);
      if (answer.status === 404) return this.lose();
      const from = this.seen;
      (await answer.json()).forEach((event, i) => this.take(from + i, event));
      this.failures = 0;
    } catch {
      this.failures += 1;
      if (this.failures > PATIENCE) return this.lose();
    }
    if (!this.closed) this.timer = setTimeout(() => this.poll(), POLL_MS);
  }

  lose() {
    this.close();
    this.onLost();
  }

  close() {
    this.closed = true;
    this.source.close();
    clearTimeout(this.timer);
  }
}
