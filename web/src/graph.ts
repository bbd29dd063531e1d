/** Where the jobs of a pipeline stand in a drawing: each one column behind what it needs. */

export interface Task {
  name: string;
  needs: string[];
  /** How those of `needs` must end of which it is not their success that is waited for. */
  needsOn?: Map<string, string>;
}

export interface Layout {
  nodes: Map<string, { column: number; row: number }>;
  edges: { from: string; to: string; on: string }[];
  columns: number;
  rows: number;
}

export function layout(tasks: Task[]): Layout {
  const byName = new Map(tasks.map((task) => [task.name, task]));
  const columns = new Map<string, number>();
  const column = (name: string, above: Set<string>): number => {
    const known = columns.get(name);
    if (known !== undefined) return known;
    // A circle cannot be stored; a drawing must not hang on one.
    if (above.has(name)) return 0;
    const needs = (byName.get(name)?.needs ?? []).filter((need) => byName.has(need));
    const place = Math.max(-1, ...needs.map((need) => column(need, new Set(above).add(name)))) + 1;
    columns.set(name, place);
    return place;
  };
  const nodes: Layout["nodes"] = new Map();
  const filled: number[] = [];
  // In the order of the columns, and within one by the rows of what they need: fewer lines cross.
  const order = tasks.map((task) => ({ task, column: column(task.name, new Set()) }));
  order.sort((a, b) => a.column - b.column);
  let at = 0;
  while (at < order.length) {
    const now = order[at]?.column ?? 0;
    const same = order.filter((one) => one.column === now);
    const wish = ({ task }: { task: Task }) => {
      const rows = task.needs.flatMap((need) => nodes.get(need)?.row ?? []);
      return rows.length === 0 ? 0 : rows.reduce((sum, row) => sum + row, 0) / rows.length;
    };
    same.sort((a, b) => wish(a) - wish(b));
    for (const { task } of same) {
      const row = filled[now] ?? 0;
      filled[now] = row + 1;
      nodes.set(task.name, { column: now, row });
    }
    at += same.length;
  }
  const edges = tasks.flatMap((task) =>
    task.needs
      .filter((need) => byName.has(need))
      .map((need) => ({ from: need, to: task.name, on: task.needsOn?.get(need) ?? "succeeded" })),
  );
  return { nodes, edges, columns: filled.length, rows: Math.max(0, ...filled) };
}
