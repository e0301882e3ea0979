// Which of its programs a plan runs: its own, or those of alternatives. Knows the plan; measures and compiles nothing.

import type { Alternative, Dispatch, Kernel, Plan } from "./schema";

/** The alternative's name for each program that does not run as the plan's own. */
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

/** The programs that `choice` names, and no kernel that they do not need. @param file the module of the plan's own kernels */
export function compose(plan: Plan, file: string, choice: Choice): Composition {
  const modules = [file, ...plan.alternatives.map(({ kernelsFile }) => kernelsFile)].map((name) => ({
    file: name,
    used: new Map<number, Kernel>(),
  }));
  const places: { dispatch: Dispatch; module: number; kernel: number }[] = [];
  const program = (name: string, own: readonly Dispatch[]): Dispatch[] => {
    const at = plan.alternatives.findIndex((alternative) => alternative.name === choice[name]);
    const alternative = plan.alternatives[at];
    return (alternative?.programs.get(name) ?? own).map((dispatch) => {
      const isOwn = dispatch.kernel < plan.kernels.length;
      const place = {
        dispatch: { ...dispatch },
        module: isOwn ? 0 : at + 1,
        kernel: isOwn ? dispatch.kernel : dispatch.kernel - plan.kernels.length,
      };
      const kernel = (isOwn ? plan : alternative)?.kernels[place.kernel];
      if (kernel === undefined) throw new Error(`${name}: a dispatch of a kernel that is not there`);
      modules[place.module]?.used.set(place.kernel, kernel);
      places.push(place);
      return place.dispatch;
    });
  };
  const decode = program("decode", plan.decode);
  const prefill = new Map([...plan.prefill].map(([size, own]) => [size, program(`prefill_${size}`, own)]));
  const [mask] = program("mask", plan.mask === undefined ? [] : [plan.mask]);
  const verify = plan.verify && { ...plan.verify, program: program(`verify_${plan.verify.rows}`, plan.verify.program) };
  let first = 0;
  const numbers = modules.map(({ used }) => new Map([...used.keys()].map((kernel) => [kernel, first++])));
  for (const { dispatch, module, kernel } of places) dispatch.kernel = numbers[module]?.get(kernel) ?? 0;
  return {
    plan: { ...plan, kernels: modules.flatMap(({ used }) => [...used.values()]), decode, prefill, mask, verify },
    modules: modules.filter(({ used }) => used.size > 0).map(({ file: name, used }) => ({ file: name, kernels: [...used.values()] })),
  };
}

/** The plan with every program that `alternative` has in place of its own, when that one's kernels are numbered from `first` on. */
export function replaced(plan: Plan, alternative: Alternative, first: number): Plan {
  const program = (name: string, own: Dispatch[]): Dispatch[] =>
    alternative.programs.get(name)?.map((dispatch) => {
      const { kernel } = dispatch;
      return { ...dispatch, kernel: kernel < plan.kernels.length ? kernel : kernel - plan.kernels.length + first };
    }) ?? own;
  const prefill = new Map([...plan.prefill].map(([size, own]) => [size, program(`prefill_${size}`, own)]));
  return { ...plan, decode: program("decode", plan.decode), prefill };
}
