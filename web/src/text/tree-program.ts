// A file of its own, jinja.js, which loads with a model whose chat template the compiler has parsed: runs the syntax tree.

import type { Tree } from "../artifact/template-tree";
import { startBudget } from "./jinja/budget";
import { templateGlobals } from "./jinja/globals";
import { type BranchListener, Interpreter } from "./jinja/interpreter";
import { fromJson } from "./jinja/values";

/** By the syntax tree that the compiler wrote: as Jinja2 does, within a budget. */
export function treeProgram(
  tree: Tree,
  onBranch?: BranchListener,
  now = () => new Date(),
): (variables: Readonly<Record<string, unknown>>) => string {
  return (variables) => {
    startBudget();
    const given = Object.fromEntries(Object.entries(variables).map(([name, value]) => [name, fromJson(value)]));
    return Interpreter.render(tree, { ...templateGlobals(now()), ...given }, onBranch);
  };
}
