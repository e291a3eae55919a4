/**
 * The server of the classic PHP socket example, on the native TCP of Bun and of
 * Deno: it greets each client, reads from it once, prints what came, closes,
 * and stops after five clients.
 *
 *     bun server.ts [ip] [port] [clients]
 *     deno run --allow-net server.ts [ip] [port] [clients]
 */
export {}; // makes this a module, in which await may stand at the top

const runtime = findRuntime();
const encoder = new TextEncoder();

const usage = "用法:server.ts [ip] [port] [clients],預設:127.0.0.1 1935 5 " +
  "(port:0 到 65535,clients:正整數或 Infinity)";
const args = runtime.Deno ? runtime.Deno.args : runtime.Bun.argv.slice(2);
const [ip = "127.0.0.1", port = "1935", clients = "5", ...others] = args;
if (ip === "-h" || ip === "--help") {
  console.log(usage);
  process.exit(0);
}
if (
  /^\d*$/.test(ip) || !/^\d+$/.test(port) || Number(port) > 65535 ||
  !/^(0*[1-9]\d*|Infinity)$/.test(clients) || others.length > 0
) {
  console.warn(usage);
  process.exit(2);
}

// socket_create, socket_bind, socket_listen
const sock = await listen(ip, Number(port))
  .catch(die("socket_bind() 失敗的原因是:"));
console.warn(`正在監聽 ${ip}:${sock.addr.port}`);

let count = 0;
do {
  // socket_accept
  const msgsock = await accept(sock)
    .catch(die("socket_accept() failed: reason: "));

  // socket_write: a client that is gone costs its own turn, not the server
  await write(msgsock, "測試成功!\n")
    .catch(warn("socket_write() 失敗的原因是:"));

  await echo("測試成功了啊\n").catch(die("echo 失敗的原因是:"));

  // socket_read
  const buf = await read(msgsock, 8192)
    .catch(warn("socket_read() 失敗的原因是:"));

  const talkback = ["收到的資訊:", buf ?? "", "\n"];
  await echo(...talkback).catch(die("echo 失敗的原因是:"));

  // socket_close
  msgsock.close();
} while (++count < Number(clients));

// socket_close
sock.close();

/**
 * Takes the next client, in the order in which they connected. Rejects where
 * the system has none to give.
 */
async function accept(sock: Listener): Promise<Conn> {
  while (true) {
    const conn = await sock.accept().catch((error: SystemError) => {
      // Deno asks for the client's address. One that is gone has none: the next.
      if (error.code !== "ENOTCONN") throw error;
      warn("socket_accept() failed: reason: ")(error);
    });
    if (conn) return conn;
  }
}

/**
 * Sends all of `data`, text as UTF-8, and gives its length in bytes. Rejects
 * where the connection is gone.
 */
async function write(conn: Conn, data: string | Uint8Array): Promise<number> {
  const bytes = typeof data === "string" ? encoder.encode(data) : data;
  let sent = 0;
  while (sent < bytes.length) {
    // The system may take just a part of it, and Bun does not wait for the rest.
    const count = await conn.write(bytes.subarray(sent));
    if ("data" in conn && count === 0) await conn.data.wait();
    if ("data" in conn && count < 0) {
      throw conn.data.end?.shift() ?? Error(`socket.write() = ${count}`);
    }
    sent += count;
  }
  return sent;
}

/**
 * Reads once, and gives what has come: at most `length` bytes, and none at the
 * end. Rejects after a reset, once all that came before it has been read.
 */
async function read(conn: Conn, length: number): Promise<Uint8Array> {
  if ("read" in conn) {
    const buf = new Uint8Array(length);
    return buf.subarray(0, await conn.read(buf) ?? 0);
  }
  const { data: state } = conn; // what Bun's callbacks have left
  while (state.unread.length === 0 && !state.end) {
    conn.resume();
    await state.wait();
  }
  const chunk = state.unread.shift();
  if (!chunk && state.end?.length) throw state.end.shift();
  if (!chunk) return new Uint8Array();
  if (chunk.length > length) state.unread.unshift(chunk.subarray(length));
  return chunk.subarray(0, length);
}

/** Prints the parts, text as UTF-8, and waits until stdout has taken them. */
async function echo(...parts: (string | Uint8Array)[]): Promise<void> {
  if (runtime.Deno) {
    const { stdout } = runtime.Deno;
    for (const part of parts) {
      let rest = typeof part === "string" ? encoder.encode(part) : part;
      // Not stdout.write(), which goes through a thread: half as many clients.
      while (rest.length > 0) rest = rest.subarray(stdout.writeSync(rest));
    }
  } else {
    // One by one, for of several console.write() does not wait for all.
    await Promise.all(parts.map((part) => runtime.console.write(part)));
  }
}

/** Makes a handler for an error: it says on stderr what failed, and why. */
function warn(failed: string) {
  return ({ message, code }: SystemError) =>
    console.warn(failed + message + (code ? ` (${code})` : ""));
}

/** Makes a handler for an error: it says the same, and exits with 1. */
function die(failed: string) {
  return (error: SystemError) => {
    warn(failed)(error);
    return process.exit(1);
  };
}

/** Deno or Bun, whichever runs this. Ends the program where neither does. */
function findRuntime(): DenoRuntime | BunRuntime {
  if ("Deno" in globalThis || "Bun" in globalThis) return globalThis;
  console.warn("請用 bun server.ts 或 deno run --allow-net server.ts 執行");
  return process.exit(1);
}

/** Listens; on port 0, on any free one. Rejects where the system refuses. */
async function listen(hostname: string, port: number): Promise<Listener> {
  if (runtime.Deno) {
    return await runtime.Deno.listen({ hostname, port, tcpBacklog: 4 });
  }
  const queue: BunSocket[] = [];
  const { wait, wake } = signal();
  const callbacks = bunCallbacks();
  const listener = runtime.Bun.listen({
    hostname,
    port,
    allowHalfOpen: true, // the other end may stop sending and still receive
    socket: {
      ...callbacks,
      open(socket) {
        callbacks.open(socket);
        queue.push(socket);
        wake();
      },
    },
  });
  return {
    addr: listener,
    async accept() {
      let socket;
      while (!(socket = queue.shift())) await wait();
      return socket;
    },
    close() {
      listener.stop();
      for (const socket of queue) socket.close();
    },
  };
}

/**
 * Bun calls back where Deno is asked. These callbacks leave what they bring in
 * `socket.data`, for read() and write(), and wake whoever waits for it.
 */
function bunCallbacks() {
  const close = ({ data }: BunSocket, error?: Error) => {
    // After the end an error changes nothing: all has come.
    data.end ??= error ? [error] : [];
    data.wake();
  };
  return {
    open(socket: BunSocket) {
      socket.pause(); // Bun reads by itself, but read() says when
      socket.data = { unread: [], ...signal() };
    },
    data(socket: BunSocket, chunk: Uint8Array) {
      socket.pause(); // or a fast sender fills the memory
      socket.data.unread.push(chunk);
      socket.data.wake();
    },
    drain: ({ data }: BunSocket) => data.wake(),
    end: close,
    close,
  };
}

/** Whoever awaits wait() goes on at the next wake(), however many they are. */
function signal() {
  const waiting: (() => void)[] = [];
  return {
    wait: () => new Promise<void>((resolve) => waiting.push(resolve)),
    wake: () => waiting.splice(0).forEach((resolve) => resolve()),
  };
}

// ---- What is used of Deno and of Bun. Declared under names of our own, it takes
// ---- none of theirs away.

interface DenoRuntime {
  Deno: {
    args: string[];
    listen(options: Address & { tcpBacklog: number }): Listener;
    stdout: { writeSync(data: Uint8Array): number };
  };
}

interface BunRuntime {
  Deno?: undefined;
  Bun: {
    argv: string[];
    listen(
      options: Address & {
        allowHalfOpen: boolean;
        socket: ReturnType<typeof bunCallbacks>;
      },
    ): { port: number; stop(): void };
  };
  console: { write(part: string | Uint8Array): number | Promise<number> };
}

interface Listener {
  addr: { port: number };
  accept(): Promise<Conn>;
  close(): void;
}

interface DenoConn {
  /** Reads into `buf`, and gives how many bytes, or null at the end. */
  read(buf: Uint8Array): Promise<number | null>;
  write(data: Uint8Array): Promise<number>;
  close(): void;
}

interface BunSocket {
  /** What has come; and at the end the error, if any, until it is told. */
  data: { unread: Uint8Array[]; end?: Error[] } & ReturnType<typeof signal>;
  /** Gives how many bytes it took: 0 until `drain`, less once it is closed. */
  write(data: Uint8Array): number;
  close(): void;
  pause(): void;
  resume(): void;
}

type Conn = DenoConn | BunSocket;
type Address = { hostname: string; port: number };
type SystemError = Error & { code?: string };
