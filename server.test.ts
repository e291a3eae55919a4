/**
 * Tests of server.ts and client.ts from outside, as a user starts them, and of
 * what README.md shows of them.
 *
 *     bun test
 *     deno test -A
 *
 * The runtime that runs this file is tried and, where it is on PATH, the other
 * one too, and every pairing of the two. No test waits for time to pass: it
 * waits for bytes, for an end, or for an exit. What the tests are written in
 * stands below them.
 */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import * as fs from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { Readable } from "node:stream";
import { test } from "node:test";

const greeting = "測試成功!\n";

/** What the server prints of a client that sent `data`. */
const printed = (data: string) => `測試成功了啊\n收到的資訊:${data}\n`;

/** Every byte once, which is no valid UTF-8. */
const every = Buffer.from(Array.from({ length: 256 }, (_, i) => i));

/** What a peer may take before it must make the sender wait: 16 MiB. */
const bounded = 16 * 1024 * 1024;

/** The line for a stdout that was closed: a pipe, or a pair of sockets. */
const closedStdout =
  /^echo 失敗的原因是:(Broken pipe \(EPIPE\)|Connection reset by peer \(ECONNRESET\))\n$/;

const noFull = !fs.existsSync("/dev/full") && "there is no /dev/full";

const runtimes = findRuntimes();

// ---- The server and the client together

for (const server of runtimes) {
  for (const client of runtimes) {
    check(
      `a server on ${server.name}, a client on ${client.name}`,
      async () => {
        const { port, stdout, exit } = await serve(server, { clients: 2 });
        for (const message of ["你好\n", "\u001b[1m"]) {
          const args = ["127.0.0.1", String(port), message];
          const told = await run(client.command, "client", ...args);
          assert.equal(told.stdout, greeting);
          assert.equal(told.exit, 0);
        }
        const all = printed("你好\n") + printed("\u001b[1m");
        assert.equal(`${await stdout.all()}`, all);
        assert.equal(await exit, 0);
      },
    );
  }
}

for (const runtime of runtimes) {
  const { name, version, command } = runtime;
  const old = name === "bun" && /^1\.[0-3]\./.test(version);
  const lossy = name === "bun" && /^1\.([0-3]\.|4\.0$)/.test(version);
  const early = name === "deno" && /^2\.[0-4]\./.test(version);

  const on = (script: Script): typeof check => (title, body, skip) =>
    check(`${script} on ${name}: ${title}`, body, skip);
  const server = on("server");
  const client = on("client");

  // ---- The server

  server("greets, prints and closes, and ends after five clients", async () => {
    const { port, stdout, stderr, exit } = await serve(runtime);
    let all = "";
    for (const data of ["1", "2", "3", "4", "5"]) {
      const { socket, received } = await greeted(port);
      await send(socket, data);
      assert.equal(`${await received.all()}`, greeting);
      all += printed(data);
    }
    assert.equal(await exit, 0);
    assert.equal(`${await stdout.all()}`, all);
    assert.equal(`${await stderr.all()}`, `正在監聽 127.0.0.1:${port}\n`);
  });

  server("serves more than five where it is told to", async () => {
    const { port, stdout } = await serve(runtime, { clients: Infinity });
    for (let i = 1; i <= 6; i++) {
      const { socket, received } = await dial(port);
      await send(socket, `${i}`);
      await received.all();
    }
    await stdout.until(printed("6"));
  });

  server("prints the bytes as they came", async () => {
    const { port, stdout } = await serve(runtime, { clients: 1 });
    const { socket } = await dial(port);
    await send(socket, every);
    const [head, tail] = printed("|").split("|");
    const all = [Buffer.from(head), every, Buffer.from(tail)];
    assert.deepEqual(await stdout.all(), Buffer.concat(all));
  });

  server("serves one at a time, in the order of connecting", async () => {
    const { port, stdout } = await serve(runtime, { clients: 3 });
    const first = await greeted(port);
    const second = await dial(port);
    await send(second.socket, "2");
    const third = await dial(port);
    await send(third.socket, "3");
    await send(first.socket, "1");
    await first.received.all();
    assert.equal(`${await third.received.all()}`, greeting);
    const all = printed("1") + printed("2") + printed("3");
    assert.equal(`${await stdout.all()}`, all);
  });

  server("reads a waiting client once, and 8192 bytes at most", async () => {
    const { port, stdout } = await serve(runtime, { clients: 3 });
    const first = await greeted(port);
    const pieces = await dial(port);
    await send(pieces.socket, "piece ");
    await giveTime(command);
    await send(pieces.socket, "by piece");
    const many = await dial(port);
    await send(many.socket, "x".repeat(10_000));
    await send(first.socket, "1");
    const all = printed("1") + printed("piece by piece") +
      printed("x".repeat(8192));
    assert.equal(`${await stdout.all()}`, all);
  });

  server("greets who has sent all, and who sends nothing", async () => {
    const { port, stdout } = await serve(runtime, { clients: 3 });
    const first = await greeted(port);
    const brief = await dial(port);
    brief.socket.end("2");
    const silent = await dial(port);
    silent.socket.end();
    await send(first.socket, "1");
    assert.equal(`${await brief.received.all()}`, greeting);
    assert.equal(`${await silent.received.all()}`, greeting);
    const all = printed("1") + printed("2") + printed("");
    assert.equal(`${await stdout.all()}`, all);
  });

  for (const moment of ["while it waits", "just as its turn comes"]) {
    server(`outlives a client that resets ${moment}`, async () => {
      // Deno has no Conn, and so no turn, for such a client.
      const clients = name === "deno" ? 2 : 3;
      const program = await serve(runtime, { clients });
      const first = await greeted(program.port);
      const gone = await dial(program.port);
      const last = await dial(program.port);
      await send(last.socket, "3");
      if (moment === "while it waits") {
        await reset(gone);
        await giveTime(command);
        await send(first.socket, "1");
      } else {
        program.kill("SIGSTOP");
        await send(first.socket, "1");
        await reset(gone);
        program.kill("SIGCONT");
      }
      assert.equal(
        `${await program.stdout.all()}`,
        printed("1") + (name === "deno" ? "" : printed("")) + printed("3"),
      );
      assert.equal(await program.exit, 0);
      const reason = name === "deno"
        ? "socket_accept() failed: reason: Transport endpoint is not connected (ENOTCONN)"
        : "socket_write() 失敗的原因是:Connection reset by peer (ECONNRESET)";
      assert.equal(behind(1, await program.stderr.all()), `${reason}\n`);
    });
  }

  server(
    "prints what a client sent that reset while it waited",
    async () => {
      const { port, stdout } = await serve(runtime, { clients: 2 });
      const first = await greeted(port);
      const gone = await dial(port);
      await send(gone.socket, "2");
      await reset(gone);
      await giveTime(command);
      await send(first.socket, "1");
      assert.equal(`${await stdout.all()}`, printed("1") + printed("2"));
    },
    name === "deno"
      ? "Deno passes it over"
      : lossy && "Bun up to 1.4.0 loses it",
  );

  server("outlives a client that resets in its turn", async () => {
    const { port, stdout, stderr } = await serve(runtime, { clients: 2 });
    const gone = await greeted(port);
    gone.socket.resetAndDestroy();
    const last = await dial(port);
    await send(last.socket, "2");
    assert.equal(`${await stdout.all()}`, printed("") + printed("2"));
    assert.equal(
      `${await stderr.all()}`.split("\n")[1],
      "socket_read() 失敗的原因是:Connection reset by peer (ECONNRESET)",
    );
  });

  server("ends at once, whoever still waits", async () => {
    const { port, exit } = await serve(runtime, { clients: 1 });
    const first = await greeted(port);
    const waiting = await dial(port);
    await send(waiting.socket, "2");
    await send(first.socket, "1");
    assert.equal(await exit, 0);
    assert.equal(`${await waiting.received.all()}`, "");
  });

  server("makes a waiting client wait that sends without end", async () => {
    const { port, stdout } = await serve(runtime, { clients: 2 });
    const first = await greeted(port);
    const endless = await dial(port);
    const taken = flood(endless.socket);
    await giveTime(command);
    assert(taken() < bounded, `it took ${taken()} bytes`);
    await send(first.socket, "1");
    const all = printed("1") + printed("x".repeat(8192));
    assert.equal(`${await stdout.all()}`, all);
  });

  server("makes clients wait in their turn too", async () => {
    const { port, stdout } = await serve(runtime, { clients: Infinity });
    stdout.stream.pause(); // until one of them finds stdout full
    const taken: (() => number)[] = [];
    let enough = false;
    const talk = async () => {
      while (!enough) {
        const { socket, received } = await dial(port);
        taken.push(flood(socket));
        await received.all();
      }
    };
    talk().catch(() => {});
    await giveTime(command);
    enough = true;
    const most = Math.max(...taken.map((bytes) => bytes()));
    assert(most < bounded, `it took ${most} bytes`);
  }, old && "Bun up to 1.3 reads on after pause()");

  server("reads while it writes, where it is changed to", async () => {
    const source = read("server.ts").replace(
      "  const buf = await read(msgsock, 8192);",
      `  const reading = read(msgsock, 8192);
         await write(msgsock, "x".repeat(8_000_000) + "end");
         const buf = await reading;`,
    );
    const { port, stdout } = await serve(runtime, { clients: 1, source });
    const { socket, received } = await dial(port);
    received.stream.pause();
    await giveTime(command);
    received.stream.resume();
    await received.until("end");
    await send(socket, "1");
    assert.equal(`${await stdout.all()}`, printed("1"));
  });

  server(
    "lets no more wait than PHP does",
    async () => {
      const { port } = await serve(runtime);
      await greeted(port);
      let connected = 0;
      for (let i = 0; i < 12; i++) {
        dial(port).then(() => connected++, () => {});
      }
      await giveTime(command);
      assert(connected < 12, "all twelve are connected");
    },
    name === "bun"
      ? "Bun.listen has no backlog"
      : early && "Deno sets none before 2.5",
  );

  server("loses nothing where stdout is slow", async () => {
    const { port, stdout } = await serve(runtime, { clients: 40 });
    stdout.stream.pause();
    let all = "";
    const talk = async () => {
      for (let i = 10; i < 50; i++) {
        const { socket, received } = await dial(port);
        await send(socket, `${i}`.repeat(4096));
        await received.all();
        all += printed(`${i}`.repeat(4096));
      }
    };
    const talked = talk();
    await giveTime(command);
    stdout.stream.resume();
    await talked;
    assert(`${await stdout.all()}` === all);
  });

  server("ends where stdout is closed", async () => {
    const { port, stdout, stderr, exit } = await serve(runtime, {
      clients: Infinity,
    });
    let ended = false;
    exit.then(() => ended = true);
    while (!ended) {
      const client = await dial(port).catch(() => undefined);
      client?.socket.end("1");
      await client?.received.all();
      if (stdout.bytes.length > 0) stdout.stream.destroy();
    }
    assert.equal(await exit, 1);
    assert.match(behind(1, await stderr.all()), closedStdout);
  });

  server("greets before it prints, and ends where stdout is full", async () => {
    const stdout = openFull();
    const { port, stderr, exit } = await serve(runtime, { stdout });
    const { received } = await dial(port);
    assert.equal(`${await received.all()}`, greeting);
    assert.equal(await exit, 1);
    assert.equal(
      behind(1, await stderr.all()),
      "echo 失敗的原因是:No space left on device (ENOSPC)\n",
    );
  }, noFull);

  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    server(`ends at ${signal}, and starts again on its port`, async () => {
      const { kill, port, exit } = await serve(runtime);
      const served = await dial(port);
      await send(served.socket, "1");
      await served.received.all();
      await greeted(port);
      kill(signal);
      assert.equal(await exit, signal);
      await serve(runtime, { port });
    });
  }

  server("says the address that it really has", async () => {
    const { stderr } = start(command, "server", ["localhost", "0"]);
    await stderr.until("\n");
    assert.match(`${stderr.bytes}`, /^正在監聽 (127\.0\.0\.1|\[::1\]):\d+\n$/);
  });

  server("says why it cannot listen", async () => {
    const { port } = await serve(runtime);
    const args = ["127.0.0.1", String(port)];
    assert.deepEqual(await run(command, "server", ...args), {
      stdout: "",
      stderr:
        "socket_bind() 失敗的原因是:Address already in use (EADDRINUSE)\n",
      exit: 1,
    });
    const { stderr, exit } = await run(command, "server", "no..such", "0");
    assert.match(stderr, /^socket_bind\(\) 失敗的原因是:\S.*\n$/);
    assert.equal(exit, 1);
  });

  // ---- The client

  client("sends its message, and prints each part as it comes", async () => {
    const { socket, received, stdout, stderr, exit } = await call(
      runtime,
      "說\n",
    );
    await received.until("說\n");
    await send(socket, "one");
    await stdout.until("one");
    socket.end(every);
    const all = Buffer.concat([Buffer.from("one"), every]);
    assert.deepEqual(await stdout.all(), all);
    assert.equal(await exit, 0);
    assert.equal(`${await received.all()}`, "說\n");
    assert.match(`${await stderr.all()}`, /^([^a-z]+\n)+$/);
  });

  client("sends a greeting of its own, or nothing where told so", async () => {
    for (const message of [undefined, "", "-h"]) {
      const { socket, received, exit } = await call(runtime, message);
      socket.end();
      const text = `${await received.all()}`;
      if (message === undefined) assert.match(text, /^.+\n$/);
      else assert.equal(text, message);
      assert.equal(await exit, 0);
    }
  });

  client("sends all, also to a server that has said all", async () => {
    const message = "說".repeat(40_000);
    const { socket, received, exit } = await call(runtime, message);
    socket.end("one");
    assert.equal(`${await received.all()}`, message);
    assert.equal(await exit, 0);
  });

  // An argument is too short for what a socket takes at once, by default.
  const source = read("client.ts").replace(
    /const greeting = .*/,
    'const greeting = "x".repeat(8_000_000) + "\\n";',
  );

  client("sends all, whatever the socket takes at a time", async () => {
    const { socket, received, exit } = await call(runtime, undefined, {
      source,
    });
    received.stream.pause();
    await giveTime(command);
    received.stream.resume();
    await received.until("\n");
    assert.equal(received.bytes.length, 8_000_001);
    socket.end();
    assert.equal(await exit, 0);
  });

  client("prints what there is where it could not send all", async () => {
    const { socket, received, stdout, stderr, exit } = await call(
      runtime,
      undefined,
      { source },
    );
    received.stream.pause();
    await send(socket, "one");
    await giveTime(command);
    socket.resetAndDestroy();
    assert.equal(`${await stdout.all()}`, "one");
    assert.equal(await exit, 1);
    assert.match(
      `${await stderr.all()}`,
      /\nsocket_write\(\) 失敗的原因是:Connection reset by peer \(ECONNRESET\)\n/,
    );
  }, name === "bun" && version === "1.4.0" && "Bun 1.4.0 loses what came");

  client("says why it cannot connect", async () => {
    const closed = net.createServer();
    const port = await listen(closed);
    closed.close();
    await once(closed, "close");
    const refused = await run(command, "client", "127.0.0.1", String(port));
    assert.deepEqual([refused.stdout, refused.exit], ["", 1]);
    assert.equal(
      behind(1, refused.stderr),
      "socket_connect() 失敗的原因是:Connection refused (ECONNREFUSED)\n",
    );
    const unknown = await run(command, "client", "no..such");
    assert.match(
      unknown.stderr,
      /^.+\nsocket_connect\(\) 失敗的原因是:(?!.*ECONNREFUSED)\S.*\n$/,
    );
    assert.deepEqual([unknown.stdout, unknown.exit], ["", 1]);
  });

  client("prints what came before a reset, and says that it came", async () => {
    const { socket, stdout, stderr, exit } = await call(runtime);
    await send(socket, "one");
    await stdout.until("one");
    await send(socket, "two");
    socket.resetAndDestroy();
    assert.equal(`${await stdout.all()}`, "onetwo");
    assert.equal(await exit, 1);
    assert.match(
      `${await stderr.all()}`,
      /\nsocket_read\(\) 失敗的原因是:Connection reset by peer \(ECONNRESET\)\n$/,
    );
  });

  client("loses nothing where stdout is slow", async () => {
    const blocks = Array.from(
      { length: 128 },
      (_, i) => Buffer.alloc(65_536, i),
    );
    const all = Buffer.concat(blocks);
    const { socket, stdout, exit } = await call(runtime, "");
    stdout.stream.pause();
    socket.end(all);
    await giveTime(command);
    stdout.stream.resume();
    assert(all.equals(await stdout.all()));
    assert.equal(await exit, 0);
  });

  client("makes a server wait that sends without end", async () => {
    const { socket, stdout } = await call(runtime);
    stdout.stream.pause();
    const taken = flood(socket);
    await giveTime(command);
    assert(taken() < bounded, `it took ${taken()} bytes`);
  }, old && "Bun up to 1.3 reads on after pause()");

  client("ends where stdout is closed", async () => {
    const { socket, stdout, stderr, exit } = await call(runtime);
    flood(socket);
    await stdout.until("x");
    stdout.stream.destroy();
    assert.equal(await exit, 1);
    assert.match(behind(3, await stderr.all()), closedStdout);
  });

  client("does its work where stderr is full", async () => {
    const stderr = openFull();
    const { socket, stdout, exit } = await call(runtime, "", { stderr });
    socket.end("one");
    assert.equal(`${await stdout.all()}`, "one");
    assert.equal(await exit, 0);
  }, noFull);

  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    client(`ends at ${signal}`, async () => {
      const { received, kill, exit } = await call(runtime, "here");
      await received.until("here");
      kill(signal);
      assert.equal(await exit, signal);
    });
  }

  // ---- Both

  const wrong = {
    server: ["-1 5", "65536 5", "1e3 5", "0x50 5", "80.0 5", "http 5"]
      .concat(["0 0", "0 -1", "0 1.5", "0 1e1", "0 all", "0 5 6"]),
    client: ["0", "-1", "65536", "1e3", "0x50", "80.0", "http", "80 x y"],
  };
  for (const script of ["server", "client"] as const) {
    on(script)("takes no wrong arguments", async () => {
      const said = new RegExp(
        `^.+\\n用法:${script}\\.ts \\[ip\\] \\[port\\] .+\\n$`,
      );
      await Promise.all(wrong[script].map(async (line) => {
        const args = ["127.0.0.1", ...line.split(" ")];
        const { stdout, stderr, exit } = await run(command, script, ...args);
        assert.match(stderr, said, line);
        assert.deepEqual([stdout, exit], ["", 2], line);
      }));
    });

    on(script)("prints its usage where asked", async () => {
      for (const flag of ["-h", "--help"]) {
        const { stdout, stderr, exit } = await run(command, script, flag);
        assert.match(stdout, new RegExp(`^用法:${script}\\.ts \\[ip\\].+\\n$`));
        assert.deepEqual([stderr, exit], ["", 0]);
      }
    });

    on(script)("imports nothing, and leaves its folder as it was", async () => {
      assert.doesNotMatch(read(`${script}.ts`), /\b(import|require)\b/);
      const { folder, exit } = start(command, script, ["no..such"]);
      await exit;
      assert.deepEqual(fs.readdirSync(folder), [`${script}.ts`]);
    });
  }
}

// ---- README.md, with whose commands all of the above was started

for (const runtime of runtimes) {
  const readme = (title: string, body: () => Promise<void>) =>
    check(`README on ${runtime.name}: ${title}`, body);
  const types = runtime.name === "deno" ? ["--check", "--quiet"] : [];
  const command = [...runtime.command, ...types];

  readme("what you see", async () => {
    const [ofServer, ofClient] = read("README.md").split("```console\n")
      .slice(1).map((text) => behind(1, text.split("```")[0]));
    const { port, ...server } = await serve(runtime, { clients: 1 });
    const address = ["127.0.0.1", String(port)];
    const client = await run(runtime.command, "client", ...address);
    const told = client.stderr.replace(`${port}`, "1935").split("\n");
    told.splice(3, 0, client.stdout.trim());
    assert.equal(`${told.join("\n")}${client.exit}\n`, ofClient);
    const said = `${await server.stderr.all()}${await server.stdout.all()}`;
    assert.equal(
      `${said.replace(`${port}`, "1935")}${await server.exit}\n`,
      ofServer,
    );
  });

  readme("the client gets the talkback too", async () => {
    const { port } = await serve({ command }, { source: exercise(1) });
    const { socket, received } = await dial(port);
    await send(socket, "1");
    assert.equal(`${await received.all()}`, `${greeting}收到的資訊:1\n`);
  });

  readme("it serves until it is stopped", async () => {
    const { port } = await serve({ command }, { source: exercise(2) });
    for (let i = 1; i <= 6; i++) {
      const { socket, received } = await greeted(port);
      socket.end();
      await received.all();
    }
  });

  readme("it serves several clients at once", async () => {
    const { port, stdout, exit } = await serve({ command }, {
      clients: 2,
      source: exercise(3),
    });
    const first = await greeted(port);
    const second = await greeted(port);
    await send(second.socket, "2");
    await second.received.all();
    await send(first.socket, "1");
    await first.received.all();
    assert.equal(await exit, 0);
    assert.equal(
      `${await stdout.all()}`,
      "測試成功了啊\n測試成功了啊\n收到的資訊:2\n收到的資訊:1\n",
    );
  });
}

// ---- Neither

const node = spawnSync("node", ["--version"], { encoding: "utf8" });
const [major, minor] = (node.stdout ?? "").slice(1).split(".").map(Number);
const stripsTypes = major > 22 || major === 22 && minor >= 18;
for (const script of ["server", "client"] as const) {
  check(`${script} on Node.js: says what to run it with`, async () => {
    const { stdout, stderr, exit } = await run(["node"], script);
    assert.match(stderr, /^.*bun .+deno run .+\n$/);
    assert.deepEqual([stdout, exit], ["", 1]);
  }, !stripsTypes && "no Node.js from 22.18 on PATH");
}

// ---- What the tests work with, and how it is cleared away

const leftovers: (() => void)[] = [];

/** A test that leaves nothing behind, and that fails rather than hangs. */
function check(
  title: string,
  body: () => Promise<void>,
  skip: string | false = false,
): void {
  const named = skip ? `${title} (skipped: ${skip})` : title;
  test(named, { skip, timeout: 60_000 }, async () => {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const hung = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error("this hangs")), 30_000);
    });
    try {
      await Promise.race([body(), hung]);
    } finally {
      clearTimeout(timer);
      for (const clear of leftovers.splice(0).reverse()) clear();
    }
  });
}

/** Keeps what a stream brings. */
class Inbox {
  bytes: Buffer = Buffer.alloc(0);
  stream: Readable;
  #over = false;
  #changed = () => {};

  constructor(stream: Readable) {
    const over = () => {
      this.#over = true;
      this.#changed();
    };
    stream.on("end", over).on("error", over).on("close", over);
    stream.on("data", (data: Buffer) => {
      this.bytes = Buffer.concat([this.bytes, data]);
      this.#changed();
    });
    this.stream = stream;
  }

  #change(): Promise<void> {
    return new Promise((resolve) => this.#changed = resolve);
  }

  /** Waits for `text`. */
  async until(text: string): Promise<void> {
    while (!this.bytes.includes(text)) {
      assert(!this.#over, `no "${text}" in "${this.bytes.subarray(-99)}"`);
      await this.#change();
    }
  }

  /** Waits for the end, and gives all that came. */
  async all(): Promise<Buffer> {
    while (!this.#over) await this.#change();
    return this.bytes;
  }
}

type Script = "server" | "client";

interface Program {
  folder: string;
  stdout: Inbox;
  stderr: Inbox;
  kill(signal: string): void;
  /** The exit code, or the name of the signal that ended it. */
  exit: Promise<number | string>;
}

interface Options {
  /** Where output goes, if not to the test: a file's descriptor. */
  stdout?: "pipe" | number;
  stderr?: "pipe" | number;
  /** What to start instead of the script as it is. */
  source?: string;
}

/** Starts server.ts or client.ts, copied alone into an empty folder. */
function start(
  command: string[],
  name: Script,
  args: string[],
  { stdout = "pipe", stderr = "pipe", source = read(`${name}.ts`) }: Options =
    {},
): Program {
  const folder = fs.mkdtempSync(join(tmpdir(), "socket-"));
  leftovers.push(() => fs.rmSync(folder, { recursive: true }));
  fs.writeFileSync(join(folder, `${name}.ts`), source);
  const [file, ...before] = command;
  const child = spawn(file, [...before, `${name}.ts`, ...args], {
    cwd: folder,
    stdio: ["ignore", stdout, stderr],
    // As on a terminal, where what is printed must be the same.
    env: { ...process.env, FORCE_COLOR: "1", NO_COLOR: undefined },
  });
  const { pid } = child;
  assert(pid);
  let running = true;
  // Not child.kill(), which on Deno does nothing the second time.
  const kill = (signal: string) => running && process.kill(pid, signal);
  leftovers.push(() => kill("SIGKILL"));
  const exit = once(child, "exit").then(([code, signal]) => {
    running = false;
    return code ?? signal;
  });
  return {
    folder,
    stdout: new Inbox(child.stdout ?? Readable.from([])),
    stderr: new Inbox(child.stderr ?? Readable.from([])),
    kill,
    exit,
  };
}

/** Starts a script, waits for its end, and gives all that there is to see. */
async function run(
  command: string[],
  name: Script,
  ...args: string[]
) {
  const program = start(command, name, args);
  const stdout = `${await program.stdout.all()}`;
  const stderr = `${await program.stderr.all()}`;
  return { stdout, stderr, exit: await program.exit };
}

/**
 * Gives a program the time to do what it should not: that in which a script
 * starts and ends ten times. What a test then finds does not hang on how long
 * that took, but how surely it finds a fault does.
 */
async function giveTime(command: string[]): Promise<void> {
  for (let i = 0; i < 10; i++) await run(command, "server", "--help");
}

/** Starts a server, on a free port or on a given one, and waits for it. */
async function serve(
  { command }: Pick<Runtime, "command">,
  { port = 0, clients, ...options }: Options & {
    port?: number;
    clients?: number;
  } = {},
) {
  const counted = clients === undefined ? [] : [String(clients)];
  const args = ["127.0.0.1", String(port), ...counted];
  const program = start(command, "server", args, options);
  await program.stderr.until("\n");
  const line = program.stderr.bytes.toString();
  assert.match(line, /^正在監聽 127\.0\.0\.1:\d+\n$/);
  return { ...program, port: Number(line.trim().split(":")[1]) };
}

/** Connects a client of our own, which gets and sends what a test wants. */
async function dial(port: number) {
  const socket = net.connect({ host: "127.0.0.1", port, allowHalfOpen: true });
  leftovers.push(() => socket.destroy());
  const received = new Inbox(socket);
  await once(socket, "connect");
  return { socket, received };
}

/** Resets a client's connection, and waits till that is done. */
async function reset(client: Awaited<ReturnType<typeof dial>>): Promise<void> {
  client.socket.resetAndDestroy();
  await client.received.all();
}

/** Connects a client, and waits for its turn. */
async function greeted(port: number) {
  const client = await dial(port);
  await client.received.until(greeting);
  return client;
}

/** Writes, and waits till the system has taken it. */
function send(socket: net.Socket, data: string | Uint8Array): Promise<void> {
  return new Promise((resolve) => socket.write(data, () => resolve()));
}

/** Starts a client, and gives the other end of its connection too. */
async function call(
  { command }: Runtime,
  message?: string,
  options?: Options,
): Promise<Program & { socket: net.Socket; received: Inbox }> {
  const listener = net.createServer({ allowHalfOpen: true });
  leftovers.push(() => listener.close());
  const arrived = new Promise<net.Socket>((resolve) =>
    listener.on("connection", resolve)
  );
  const args = ["127.0.0.1", String(await listen(listener))];
  if (message !== undefined) args.push(message);
  const program = start(command, "client", args, options);
  const socket = await arrived;
  leftovers.push(() => socket.destroy());
  return { ...program, socket, received: new Inbox(socket) };
}

/** Listens on a free port, which it gives. */
async function listen(listener: net.Server): Promise<number> {
  listener.listen(0, "127.0.0.1");
  await once(listener, "listening");
  const address = listener.address();
  assert(address !== null && typeof address === "object");
  return address.port;
}

/** Sends without end, as fast as it is taken; gives how many bytes it was. */
function flood(socket: net.Socket): () => number {
  const block = Buffer.alloc(1 << 16, "x");
  let taken = 0;
  const more = () => {
    taken += block.length;
    socket.write(block, (error) => error || more());
  };
  more();
  return () => taken;
}

/** A device on which there is never any space left. */
function openFull(): number {
  const full = fs.openSync("/dev/full", "w");
  leftovers.push(() => fs.closeSync(full));
  return full;
}

/** What stands behind the first `count` lines of a text. */
function behind(count: number, text: string | Buffer): string {
  return `${text}`.split("\n").slice(count).join("\n");
}

/** A file of the project. */
function read(name: string): string {
  return fs.readFileSync(new URL(name, import.meta.url), "utf8");
}

/** server.ts with the edits of one of README.md's exercises. */
function exercise(number: number): string {
  const text = read("README.md").split(/^\*\*\d\. /m)[number];
  let source = read("server.ts");
  for (const block of text.split("```diff\n").slice(1)) {
    const lines = block.split("```")[0].split("\n");
    const without = (sign: string) =>
      lines.filter((line) => line[0] !== sign).map((line) => line.slice(1))
        .join("\n");
    const [before, after, ...others] = source.split(without("+"));
    assert(after !== undefined && others.length === 0, "not there just once");
    source = before + without("-") + after;
  }
  return source;
}

// ---- The runtimes

interface Runtime {
  name: "bun" | "deno";
  version: string;
  /** What stands before the name of the script. */
  command: string[];
}

/** What stands between a runtime and its script in README.md's commands. */
function printedOptions(name: Runtime["name"]): string[] {
  const commands = read("README.md").matchAll(
    new RegExp(`^(?:npx --yes )?${name}(.*) (?:server|client)\\.ts$`, "gm"),
  );
  const [options, ...others] = new Set(
    Array.from(commands, ([, text]) => text),
  );
  assert(options !== undefined && others.length === 0, `${name} in README.md`);
  return options.split(" ").slice(1);
}

/** A runtime, or undefined where it is not to be had. */
function find(name: Runtime["name"]): Runtime | undefined {
  const script = name === "bun"
    ? "console.log(process.execPath, Bun.version)"
    : "console.log(Deno.execPath(), Deno.version.deno)";
  // What is on PATH may be a wrapper, which would not pass a signal on: the
  // runtime itself is asked where it is.
  const asked = spawnSync(
    name in process.versions ? process.execPath : name,
    [name === "bun" ? "-e" : "eval", script],
    { encoding: "utf8" },
  );
  if (asked.status !== 0) return undefined;
  const [path, version] = asked.stdout.trim().split(" ");
  return { name, version, command: [path, ...printedOptions(name)] };
}

/** The runtimes to be had; a missing one is a test that is skipped. */
function findRuntimes(): Runtime[] {
  return (["bun", "deno"] as const).flatMap((name) => {
    const runtime = find(name);
    if (runtime) return [runtime];
    check(name, () => Promise.resolve(), "it is not on PATH");
    return [];
  });
}
