// Which of its programs a plan runs: its own, or those of alternatives. Knows the plan; measures and compiles nothing.

import type { Alternative, Dispatch, Kernel, Plan } from "./schema";

/**
 * The alternative's name for each program that does not run as the plan's own; and, by `program/entry`, for each of the plan's
 * own kernels of a program that an alternative's stand in for, where that program is the plan's own.
 */
export type Choice = Readonly<Record<string, string>>;

/** Kernels of one module. */
export interface Module {
  file: string;
  kernels: Kernel[];
}

/** A plan whose dispatches count the kernels of `modules`, in order. */
export interface Composition {
  plan: Plan;
  modules: Module[];
}

/** What this browser's WGSL lacks for the alternative. */
export function lacking({ languageFeatures }: Alternative): string[] {
  const { navigator } = globalThis as { navigator?: { gpu?: { wgslLanguageFeatures?: ReadonlySet<string> } } };
  const features = navigator?.gpu?.wgslLanguageFeatures;
  return languageFeatures.filter((feature) => features?.has(feature) !== true);
}

/** Of programs that bind the same buffers in the same places, any dispatch can be the one or the other. */
export function interchangeable(own: readonly Dispatch[], other: readonly Dispatch[]): boolean {
  const same = (a: readonly number[], b: readonly number[]) => a.length === b.length && a.every((value, i) => value === b[i]);
  return own.length === other.length && own.every(({ bind }, i) => same(bind, other[i]?.bind ?? []));
}

/** Whether `choice` is one of this plan. */
export function fits(plan: Plan, choice: Choice): boolean {
  return Object.entries(choice).every(([key, name]) => {
    const [program = "", entry, ...more] = key.split("/");
    const its = plan.alternatives.find((alternative) => alternative.name === name)?.programs.get(program);
    if (its === undefined || more.length > 0) return false;
    return (
      entry === undefined || (interchangeable(ownProgram(plan, program), its) && plan.kernels.some((kernel) => kernel.entry === entry))
    );
  });
}

export function ownProgram(plan: Plan, name: string): readonly Dispatch[] {
  if (name === "decode") return plan.decode;
  if (name.startsWith("verify_")) return plan.verify?.program ?? [];
  return plan.prefill.get(Number(name.slice("prefill_".length))) ?? [];
}

/** Who of the alternatives a dispatch of a program is from, by its place there: undefined is the plan itself. */
function chosenAt(plan: Plan, choice: Choice, name: string): { from: Alternative | undefined; dispatch: Dispatch }[] {
  const named = (key: string) => plan.alternatives.find((alternative) => alternative.name === choice[key]);
  const own = ownProgram(plan, name);
  const whole = named(name);
  const list = whole?.programs.get(name);
  if (list !== undefined) return list.map((dispatch) => ({ from: whole, dispatch }));
  return own.map((dispatch, i) => {
    const from = named(`${name}/${plan.kernels[dispatch.kernel]?.entry ?? ""}`);
    return { from, dispatch: from?.programs.get(name)?.[i] ?? dispatch };
  });
}

/** The programs that `choice` names, and no kernel that they do not need. @param file the module of the plan's own kernels */
export function compose(plan: Plan, file: string, choice: Choice): Composition {
  const modules = [file, ...plan.alternatives.map(({ kernelsFile }) => kernelsFile)].map((name) => ({
    file: name,
    used: new Map<number, Kernel>(),
  }));
  const places: { dispatch: Dispatch; module: number; kernel: number }[] = [];
  const program = (name: string, chosen = chosenAt(plan, choice, name)): Dispatch[] =>
    chosen.map(({ from: alternative, dispatch }) => {
      const isOwn = dispatch.kernel < plan.kernels.length;
      const place = {
        dispatch: { ...dispatch },
        module: isOwn || alternative === undefined ? 0 : plan.alternatives.indexOf(alternative) + 1,
        kernel: isOwn ? dispatch.kernel : dispatch.kernel - plan.kernels.length,
      };
      const kernel = (isOwn ? plan : alternative)?.kernels[place.kernel];
      if (kernel === undefined) throw new Error(`${name}: a dispatch of a kernel that is not there`);
      modules[place.module]?.used.set(place.kernel, kernel);
      places.push(place);
      return place.dispatch;
    });
  const decode = program("decode");
  const prefill = new Map([...plan.prefill.keys()].map((size) => [size, program(`prefill_${size}`)]));
  const [mask] = program("mask", plan.mask === undefined ? [] : [{ from: undefined, dispatch: plan.mask }]);
  const verify = plan.verify && { ...plan.verify, program: program(`verify_${plan.verify.rows}`) };
  let first = 0;
  const numbers = modules.map(({ used }) => new Map([...used.keys()].map((kernel) => [kernel, first++])));
  for (const { dispatch, module, kernel } of places) dispatch.kernel = numbers[module]?.get(kernel) ?? 0;
  return {
    plan: { ...plan, kernels: modules.flatMap(({ used }) => [...used.values()]), decode, prefill, mask, verify },
    modules: modules.filter(({ used }) => used.size > 0).map(({ file: name, used }) => ({ file: name, kernels: [...used.values()] })),
  };
}

/** The plan with the programs of `choice`, when the kernels of each alternative are numbered from `firsts` of its name on. */
export function chosen(plan: Plan, choice: Choice, firsts: ReadonlyMap<string, number>): Plan {
  const program = (name: string): Dispatch[] =>
    chosenAt(plan, choice, name).map(({ from, dispatch }) => {
      const { kernel } = dispatch;
      if (from === undefined || kernel < plan.kernels.length) return dispatch;
      return { ...dispatch, kernel: kernel - plan.kernels.length + (firsts.get(from.name) ?? plan.kernels.length) };
    });
  const prefill = new Map([...plan.prefill.keys()].map((size) => [size, program(`prefill_${size}`)]));
  return { ...plan, decode: program("decode"), prefill };
}

/** The plan with every program that `alternative` has in place of its own, when that one's kernels are numbered from `first` on. */
export function replaced(plan: Plan, { name, programs }: Alternative, first: number): Plan {
  return chosen(plan, Object.fromEntries([...programs.keys()].map((program) => [program, name])), new Map([[name, first]]));
}
