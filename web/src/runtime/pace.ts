// How much work to keep in flight on a device that answers late: enough to hide the way to it and back, little enough that
// stopping feels instant. Pure: the caller says what happened and when.
//
// The model is a device that takes `unitMs` for a unit of work and whose answers come `latencyMs` later (Firefox looks for
// them every 100 ms). The window of units in flight grows while more in flight brings more, so a device is called slow only
// after that was tried; then it is, as in FAST TCP (Wei, Jin, Low, Hegde 2006), what the latency and a short queue hold at
// the rate at which answers arrive.

/** Device time that waits behind what runs: covers timers and pauses of the event loop. */
const QUEUE_MS = 16;
/** The window grows by at most this much device time, and at most to so many times what it was. */
const GROWTH_MS = 50;
const MOST_GROWTH = 2;
/** A rate so much higher is higher. */
const GAIN = 1.05;
/** A window that seems right is tried larger now and then, more and more rarely in vain: the latency may have grown. */
const PROBE_MS = 30;
const PROBE_ROUNDS = 8;
const MOST_PROBE_ROUNDS = 64;
/** Half a frame: more steps a submit would make the text stutter, and fewer are read in vain after an answer's end. */
const SUBMIT_MS = 8;
const MOST_A_SUBMIT = 8;
/** Timers are no finer. */
const LEAST_WAIT_MS = 6;
/** Answers closer together than this came at once. */
const BURST_GAP_MS = 1.5;
const BURST_MS = 6;
/** A round takes at least this long, for clocks are coarse, and so many answers; and it fills within so many trips. */
const ROUND_MS = 20;
const ROUND_ANSWERS = 4;
const MOST_TRIPS = 3;
/** The rate is the better of the last round's and that of so many: single ones mismeasure it. */
const ROUNDS = 3;
/** The latency is measured again, on a device that has nothing else to do, when it was not for so long. */
const STALE_MS = 30_000;

interface Sent {
  units: number;
  at: number;
  /** Nothing else was in flight, and the answer before had just come: its time is latency and work, no queue. */
  alone: boolean;
  /** It filled the window. */
  fills: boolean;
}

interface Trip {
  ms: number;
  units: number;
}

/** Answers that came at once, as far as is known. */
interface Burst {
  since: number;
  at: number;
  /** Units answered in this run, up to here. */
  done: number;
  answers: number;
}

/** Of a window: first it fills, then the rate of what it brings is measured. */
interface Round {
  from: number;
  /** Where the measurement starts. */
  start: Burst | undefined;
  over: boolean;
  longest: Trip;
}

export interface PaceOptions {
  /** Units in flight before anything was measured. */
  start?: number;
  /** Most units in flight, ever. */
  most?: number;
  /** Measure the latency again now and then, on a device that has nothing else to do. */
  resample?: boolean;
}

export class Pace {
  private readonly most: number;
  private readonly resample: boolean;
  /** Units that may be in flight; a fraction of one stands for a part of its time. */
  private window: number;
  /** Units a millisecond. */
  private rate: number | undefined;
  private rates: Trip[] = [];
  /** A lower bound, from trips without work. */
  private emptyTripMs = 0;
  private latency = 0;
  /** A trip that met no queue: how much of it is latency is known once the rate is. */
  private unqueued: Trip | undefined;
  private unqueuedAt = -Infinity;
  private sampling = false;
  private sent: Sent[] = [];
  private inFlight = 0;
  private burst: Burst | undefined;
  private round: Round = newRound(Infinity);
  /** What there was before the window grew; the larger one is still being tried. */
  private before: { window: number; rate: number; trip: Trip } | undefined;
  private growthMs = GROWTH_MS;
  private roundsToGrow = 0;
  private probeRounds = PROBE_ROUNDS;

  constructor({ start = 1, most = Infinity, resample = true }: PaceOptions = {}) {
    this.most = most;
    this.resample = resample;
    this.window = Math.min(start, most);
  }

  /** Milliseconds of device time that a unit takes, at first with the latency in it; undefined until one was timed. */
  get unitMs(): number | undefined {
    if (this.rate !== undefined) return 1 / this.rate;
    return this.unqueued === undefined ? undefined : this.unqueued.ms / this.unqueued.units;
  }

  get latencyMs(): number {
    return Math.max(this.latency, this.emptyTripMs);
  }

  /** How long a submit without work took on an idle device. */
  knowEmptyTrip(milliseconds: number): void {
    this.emptyTripMs = milliseconds;
  }

  /** A run of work begins; nobody waits for the answers of the one before any more. */
  begin(now: number): void {
    this.sent = [];
    this.inFlight = 0;
    this.burst = undefined;
    this.round = newRound(Infinity);
    if (this.before !== undefined) this.window = this.before.window;
    this.before = undefined;
    this.sampling = this.resample && now - this.unqueuedAt > STALE_MS;
  }

  /** Units to put into one submit, where that can be chosen; two submits fit into the window. */
  get perSubmit(): number {
    if (this.rate === undefined) return 1;
    return Math.max(1, Math.min(MOST_A_SUBMIT, Math.floor(SUBMIT_MS * this.rate), Math.floor(this.window / 2)));
  }

  /** Milliseconds until `units` more are to be submitted; Infinity: not before an answer comes. */
  delay(units: number, now: number): number {
    if (this.inFlight === 0) return 0;
    const room = this.window - this.inFlight;
    if (room <= 0 || (this.sampling && this.rate !== undefined)) return Infinity;
    if (units <= room || this.rate === undefined) return 0;
    if (this.burst === undefined) return Infinity;
    const wait = (units - room) / this.rate - (now - this.burst.at);
    return wait < LEAST_WAIT_MS ? 0 : wait;
  }

  submitted(units: number, now: number): void {
    const alone = this.inFlight === 0 && this.burst !== undefined && now - this.burst.at < BURST_GAP_MS;
    this.inFlight += units;
    this.sent.push({ units, at: now, alone, fills: this.inFlight >= this.window });
  }

  /** The oldest submit was answered. */
  answered(now: number): void {
    const batch = this.sent.shift();
    if (batch === undefined) throw new Error("an answer to nothing");
    this.inFlight -= batch.units;
    const { burst } = this;
    if (burst === undefined || now - burst.at > BURST_GAP_MS || now - burst.since > BURST_MS) {
      // All that a burst brought counts, so it is judged when it is over.
      if (burst === undefined) this.round = newRound(now);
      else this.endBurst(burst, now);
      this.burst = { since: now, at: now, done: (burst?.done ?? 0) + batch.units, answers: (burst?.answers ?? 0) + 1 };
    } else {
      burst.at = now;
      burst.done += batch.units;
      burst.answers += 1;
    }
    const trip = { ms: now - batch.at, units: batch.units };
    if (batch.alone) {
      this.unqueued = trip;
      this.unqueuedAt = now;
      this.latency = 0;
      this.sampling = false;
    }
    const { round } = this;
    if (batch.at < round.from) return;
    if (trip.ms > round.longest.ms) round.longest = trip;
    const since = round.start?.at ?? round.from;
    if (batch.at >= since && (batch.fills || round.start !== undefined || now - since > MOST_TRIPS * trip.ms)) round.over = true;
  }

  private endBurst(burst: Burst, now: number): void {
    const { round } = this;
    if (!round.over) return;
    if (round.start === undefined) {
      round.start = burst;
      round.over = false;
      return;
    }
    if (burst.at - round.start.at < ROUND_MS || burst.answers - round.start.answers < ROUND_ANSWERS) return;
    this.rates = [...this.rates, { ms: burst.at - round.start.at, units: burst.done - round.start.done }].slice(-ROUNDS);
    this.adapt(round.longest);
    this.round = newRound(now);
  }

  private adapt(longest: Trip): void {
    const { before, rates } = this;
    const rateOf = (trips: readonly Trip[]) =>
      trips.reduce((sum, { units }) => sum + units, 0) / trips.reduce((sum, { ms }) => sum + ms, 0);
    const rate = Math.max(rateOf(rates.slice(-1)), rateOf(rates));
    this.rate = rate;
    const gained = before !== undefined && rate > GAIN * before.rate;
    if (gained) {
      this.unqueued = before.trip;
      this.latency = 0;
    }
    if (this.unqueued !== undefined) this.latency = Math.max(this.latency, this.unqueued.ms - this.unqueued.units / rate);
    const unqueuedMs = this.latencyMs + longest.units / rate;
    if (before === undefined) {
      this.roundsToGrow -= longest.ms - unqueuedMs < QUEUE_MS / 2 ? PROBE_ROUNDS : 1;
    } else if (gained) {
      this.growthMs = GROWTH_MS;
      this.probeRounds = PROBE_ROUNDS;
    } else {
      this.growthMs = PROBE_MS;
      this.roundsToGrow = this.probeRounds;
      this.probeRounds = Math.min(2 * this.probeRounds, MOST_PROBE_ROUNDS);
    }
    const held = Math.max(1, (unqueuedMs + QUEUE_MS) * rate);
    if (this.roundsToGrow > 0) {
      this.before = undefined;
      this.window = Math.min(this.most, held);
      return;
    }
    // By Little's law: a window that is not enough has no queue, so its units took this long.
    this.before = { window: held, rate, trip: { ms: this.window / rate, units: longest.units } };
    // The most that a unit may take: what comes on top of a trip without one, until more in flight brought nothing.
    const ownMs = Math.max(0.01, longest.ms - this.emptyTripMs) / longest.units;
    const unitMs = this.growthMs === GROWTH_MS ? Math.min(1 / rate, ownMs) : 1 / rate;
    const grown = Math.min(MOST_GROWTH * this.window, this.window + this.growthMs / unitMs);
    this.window = Math.min(this.most, Math.max(held, grown));
  }
}

function newRound(from: number): Round {
  return { from, start: undefined, over: false, longest: { ms: 0, units: 1 } };
}
