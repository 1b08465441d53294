// An application that starts the module itself and talks to it, in Node without a package.
//
//     node examples/client.mjs [HOME] [PROVIDER]
//
// It reads what to spawn from HOME/spawn.json, which install.py wrote, and so needs no port and no path of its
// own. Node has a WebSocket from version 22 on; Node 20 wants `node --experimental-websocket`, or the package
// `ws` and the line `import { WebSocket } from "ws"`. Copy it into your application and change it.

import { spawn } from "node:child_process";
import { readFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

const START_MS = 20_000; // the first start on a machine compiles its modules

/** Where install.py puts its files when nobody tells it another place. */
function defaultHome() {
  if (process.env.WAIFU_LLM_HOME) return process.env.WAIFU_LLM_HOME;
  const data = {
    win32: process.env.LOCALAPPDATA ?? join(homedir(), "AppData", "Local"),
    darwin: join(homedir(), "Library", "Application Support"),
  };
  const elsewhere = process.env.XDG_DATA_HOME || join(homedir(), ".local", "share");
  return join(data[process.platform] ?? elsewhere, "w-ai-fu-llm");
}

/** Starts the module; resolves to its process and its port once it listens. It ends when we do, however we end. */
async function startModule(home) {
  const { argv } = JSON.parse(await readFile(join(home, "spawn.json"), "utf8"));
  const [program, ...words] = [...argv, "0", "--exit-on-stdin-eof"];
  const child = spawn(program, words, { stdio: ["pipe", "pipe", "inherit"], windowsHide: true });
  const { port } = await new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error("the module did not start in time")), START_MS).unref();
    child.once("error", reject);
    child.once("exit", (code) => reject(new Error(`the module ended with code ${code}`)));
    createInterface({ input: child.stdout }).once("line", (line) => resolve(JSON.parse(line)));
  });
  return { child, port };
}

/** One connection. Requests may run at the same time; each reply goes to the request whose id it carries. */
class Client {
  #socket;
  #open = new Map();
  #number = 0;

  static connect(port) {
    return new Promise((resolve, reject) => {
      const socket = new WebSocket(`ws://127.0.0.1:${port}`);
      socket.onopen = () => resolve(new Client(socket));
      socket.onerror = () => reject(new Error(`nobody answers on port ${port}`));
    });
  }

  constructor(socket) {
    this.#socket = socket;
    socket.onmessage = ({ data }) => {
      const message = JSON.parse(data);
      this.#open.get(message.unique_request_id)?.(message);
    };
    socket.onclose = () => {
      const gone = { is_error: true, error_name: "GONE", message: "The module closed the connection." };
      for (const receive of [...this.#open.values()]) receive(gone);
    };
  }

  /** Makes a provider ready; `fields` are those of the protocol: api_key, preload_model_id, … */
  load(provider, fields = {}) {
    return this.#ask({ type: "load", provider, ...fields });
  }

  /** The reply; `onChunk` gets its pieces as they come. It is rejected with the reason if there is none. */
  generate(text, onChunk = () => {}, params = {}) {
    const messages = [{ role: "user", content: text }];
    return this.#ask({ type: "generate", messages, params, stream: true }, onChunk);
  }

  /** Ends all generations of this connection; each of them is rejected with INTERRUPT. */
  interrupt() {
    return this.#ask({ type: "interrupt" });
  }

  /** Ends the module. */
  close() {
    return this.#ask({ type: "close" });
  }

  #ask(request, onChunk) {
    const id = `r${++this.#number}`;
    const last = request.type === "close" || request.type === "interrupt" ? "_ack" : "_done";
    return new Promise((resolve, reject) => {
      this.#open.set(id, (reply) => {
        if (reply.is_error) reject(Object.assign(new Error(reply.message), { name: reply.error_name }));
        else if (reply.type === "generate_stream_chunk") return onChunk(reply.chunk);
        else if (reply.type.endsWith(last)) resolve(reply);
        else return;
        this.#open.delete(id);
      });
      this.#socket.send(JSON.stringify({ ...request, unique_request_id: id }));
    });
  }
}

async function main(home = defaultHome(), provider = "demo") {
  if (typeof WebSocket === "undefined") {
    throw new Error("this Node has no WebSocket: use Node 22, or node --experimental-websocket");
  }
  const { child, port } = await startModule(home);
  const ended = new Promise((resolve) => child.once("exit", resolve));
  const client = await Client.connect(port);
  const write = (chunk) => process.stdout.write(chunk);

  const loaded = await client.load(provider);
  console.log(`${provider}: ${loaded.models_count} models`);

  write("stream: ");
  await client.generate("Tell me a joke.", write);

  write("\ninterrupt: ");
  let chunks = 0;
  await client
    .generate("Tell me a story.", (chunk) => {
      write(chunk);
      if (++chunks === 5) client.interrupt();
    })
    .catch((reason) => console.log(`[${reason.name}]`));

  await client.close();
  console.log(`closed: the module ended with code ${await ended}`);
}

main(...process.argv.slice(2)).catch((reason) => {
  console.error(reason.message);
  process.exit(1);
});
