// An application in Node, as small as one can be: it spawns what its plan says, tells on its stdout what
// becomes of it, one JSON object a line, and obeys the lines of its stdin. application.py is its twin.

import { spawn } from "node:child_process";
import { createInterface } from "node:readline";

const plan = JSON.parse(process.argv[2]);
const tell = (event) => process.stdout.write(JSON.stringify(event) + "\n");

const [program, ...words] = plan.argv.map((word) => word.replace("{pid}", process.pid));
const child = spawn(program, words, {
  cwd: plan.cwd,
  env: plan.env,
  stdio: [plan.stdin, "pipe", "pipe"],
  detached: plan.detached,
});
child.on("spawn", () => tell({ event: "spawned", pid: child.pid }));

let stderr = "";
if (plan.reads === "everything") {
  child.stderr.setEncoding("utf8").on("data", (text) => (stderr += text));
}
if (plan.reads !== "nothing") {
  const lines = createInterface({ input: child.stdout });
  lines.on("line", (line) => {
    tell({ event: "line", line });
    if (plan.reads === "the ready line") lines.pause();
  });
}
// "close" comes when both pipes are read to their ends, so only to those who read them.
child.on(plan.reads === "everything" ? "close" : "exit", (code, signal) => {
  tell({ event: "exit", code, signal, stderr });
  process.exit();
});

const orders = {
  "end stdin": () => child.stdin.end(),
  "close stdout": () => child.stdout.destroy(),
};
createInterface({ input: process.stdin }).on("line", (order) =>
  order in orders ? orders[order]() : child.kill(order),
);
