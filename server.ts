/**
 * The server of the classic PHP socket example, on the native TCP of Bun and of
 * Deno: it greets each client, reads from it once, prints what came, closes the
 * connection, and stops after five clients.
 *
 *     bun server.ts [ip] [port] [clients]
 *     deno run --allow-net server.ts [ip] [port] [clients]
 */
export {}; // makes this a module: await may stand outside functions

// These stand first: unlike a function, a const cannot be used above its line.
// "as object" first: TypeScript may refuse to cast globalThis directly.
const runtime = globalThis as object as DenoRuntime | BunRuntime;
const decoder = new TextDecoder(); // for echo on a Windows console

const { ip, port, clients } = readServerArguments();

// socket_create, socket_bind, socket_listen in one call. If it fails, .catch()
// calls what die() made: that prints this text and the reason, and exits.
const sock = await listen(ip, port).catch(die("socket_bind() 失敗的原因是:"));
console.warn(`正在監聽 ${ip}:${sock.addr.port}`); // stderr; stdout is for data

let count = 0;
do {
  // socket_accept: wait for the next client; if that fails for good, exit
  const msgsock = await accept(sock)
    .catch(die("socket_accept() failed: reason: "));

  // socket_write: greet the client; if that fails, print why and go on
  const msg = "測試成功!\n";
  await write(msgsock, msg).catch(warn("socket_write() 失敗的原因是:"));

  // echo: print on stdout; if that fails, exit
  await echo("測試成功了啊\n").catch(die("echo 失敗的原因是:"));

  // socket_read: once, up to 8192 bytes; if it fails, undefined (PHP: false)
  const buf = await read(msgsock, 8192)
    .catch(warn("socket_read() 失敗的原因是:"));

  // an array: joined into a string, bytes that are not UTF-8 would change
  const talkback = ["收到的資訊:", buf ?? "", "\n"];
  await echo(...talkback).catch(die("echo 失敗的原因是:"));

  // socket_close: close this client's connection
  msgsock.close();
} while (++count < clients);

// socket_close: stop listening; clients that still wait are cut off
sock.close();

// ---- Functions (some of their parts, and of the types, only client.ts uses)

/** Returns the arguments or defaults. Exits if one is wrong, or for `-h`. */
function readServerArguments() {
  const usage = "用法：bun server.ts [ip] [port] [clients]" +
    "（或 deno run --allow-net server.ts …）。要先寫 ip；預設依序為 " +
    "127.0.0.1、1935、5。port 是 0 到 65535；clients 是正整數或 Infinity。";
  // Deno has process.argv too, but needs 10 to 20 ms to make it.
  const args = runtime.Deno ? runtime.Deno.args : runtime.process.argv.slice(2);
  const [ip = "127.0.0.1", port = "1935", clients = "5", ...others] = args;
  if (ip === "-h" || ip === "--help") {
    console.log(usage);
    runtime.process.exit(0);
  }
  if (
    !(runtime.Deno || runtime.Bun) || // Node.js, which has neither
    /^\d*$/.test(ip) || // empty, or only digits: the ip was left out
    /^-|\/|^[^:]*:\d+$/.test(ip) || // an option, a URL, or ip:port
    !/^\d+$/.test(port) || Number(port) > 65535 ||
    !/^(\d+|Infinity)$/.test(clients) || Number(clients) < 1 ||
    others.length > 0
  ) {
    console.warn(usage);
    runtime.process.exit(2);
  }
  return { ip, port: Number(port), clients: Number(clients) };
}

/** Takes the next client; one accept at a time. Rejects if `sock` is closed. */
function accept(sock: Listener): Promise<Conn> {
  // Bun returns a client that is already gone: it counts. Deno rejects, with a
  // code that depends on the system. Other errors, as EMFILE, go to the caller.
  const gone = ["ENOTCONN", "EINVAL", "ECONNABORTED", "ECONNRESET"];
  return sock.accept().catch((error: SystemError) => {
    if (!gone.includes(error.code ?? "")) throw error;
    warn("socket_accept() failed: reason: ")(error);
    return accept(sock); // the next one
  });
}

/**
 * Sends all of `data`, text as UTF-8, and returns its length in bytes. Rejects
 * if the connection is gone. One write at a time, or the bytes of two mix.
 */
async function write(conn: Conn, data: string | Uint8Array) {
  const bytes = toBytes(data);
  let sent = 0;
  while (sent < bytes.length) sent += await conn.write(bytes.subarray(sent));
  return sent;
}

/**
 * Reads once: returns at most `length` bytes, or an empty array at the end.
 * After a reset, it returns what had arrived; the next call rejects, unless
 * write() already has; later calls return an empty array. One read at a time.
 */
async function read(conn: Conn, length: number) {
  const buf = new Uint8Array(length);
  const count = await conn.read(buf) ?? 0; // null at the end
  return buf.subarray(0, count);
}

/** Returns text as UTF-8, and bytes as they are. */
function toBytes(data: string | Uint8Array): Uint8Array {
  return typeof data === "string" ? new TextEncoder().encode(data) : data;
}

/** Makes a function for .catch(): it prints on stderr what failed, and why. */
function warn(step: string) {
  return ({ message, code }: SystemError) => {
    const added = code && !message.includes(code) ? ` (${code})` : "";
    console.warn(step + message + added);
  };
}

/** Makes a function for .catch(): it warns, and exits with 1. */
function die(step: string) {
  return (error: SystemError) => {
    warn(step)(error);
    return runtime.process.exit(1); // never returns, so sock is never undefined
  };
}

// ---- What differs between Deno and Bun

/** Prints the parts, text as UTF-8, and waits until stdout has taken them. */
async function echo(...parts: (string | Uint8Array<ArrayBuffer>)[]) {
  if (runtime.Deno) {
    const { build, stdout } = runtime.Deno;
    for (const part of parts) {
      let rest = toBytes(part);
      if (build.os === "windows" && stdout.isTerminal()) {
        // There, Deno throws at bytes that are not UTF-8: show U+FFFD instead.
        // A cut character waits for more; an empty part, the last, shows it.
        rest = toBytes(decoder.decode(rest, { stream: part.length > 0 }));
      }
      // Not stdout.write(): it uses a thread, and is several times slower.
      while (rest.length > 0) rest = rest.subarray(stdout.writeSync(rest));
    }
  } else {
    // In one piece: console.write(a, b) does not wait until both are written.
    await runtime.console.write(await new Blob(parts).bytes());
  }
}

/** Starts to listen; port 0 means any free one. Rejects if that fails. */
async function listen(hostname: string, port: number): Promise<Listener> {
  if (runtime.Deno) {
    // PHP's backlog. If it is full, the next client's system tries again, about
    // a second later. Bun has none to set, and accepts each client at once.
    return await runtime.Deno.listen({ hostname, port, tcpBacklog: 4 });
  }
  const queue: Conn[] = [];
  let closed = false;
  const { wait, wake } = condition();
  const listener = runtime.Bun.listen({
    hostname,
    port,
    allowHalfOpen: true, // the other end may stop sending and still receive
    socket: bunCallbacks((socket) => {
      queue.push(bunConn(socket));
      wake();
    }),
  });
  return {
    addr: { port: listener.port },
    async accept() {
      while (queue.length === 0 && !closed) await wait();
      const conn = queue.shift();
      if (!conn) throw Error("the listener is closed");
      return conn;
    },
    close() {
      closed = true;
      listener.stop();
      for (const conn of queue.splice(0)) conn.close(); // nobody accepts them
      wake();
    },
  };
}

/** Bun calls these functions; they note in `socket.data` what has happened. */
function bunCallbacks(onOpen?: (socket: BunSocket) => void) {
  const onEnd = ({ data: state }: BunSocket, error?: Error) => {
    // A reset after the end is no error for read(): all data has come.
    if (error && !state.ended) state.errors.push(error);
    state.ended = true;
    state.wake();
  };
  return {
    open(socket: BunSocket) {
      socket.pause(); // Bun would read at once, and not wait for read()
      socket.data = { unread: [], errors: [], ended: false, ...condition() };
      onOpen?.(socket);
    },
    data(socket: BunSocket, chunk: Uint8Array) {
      socket.pause(); // until the next read(), so that memory stays small
      socket.data.unread.push(chunk);
      socket.data.wake();
    },
    drain: (socket: BunSocket) => socket.data.wake(), // there is room to write
    end: onEnd, // the other end has sent all
    close: onEnd, // the connection is gone; only here there may be an error
  };
}

/** Makes a Conn, as Deno has it, out of Bun's socket. */
function bunConn(socket: BunSocket): Conn {
  const state = socket.data;
  return {
    async read(buf) {
      while (state.unread.length === 0 && !state.ended) {
        socket.resume();
        await state.wait(); // any callback ends it: look again
      }
      const chunk = state.unread.shift();
      if (!chunk) {
        const error = state.errors.shift(); // once: later reads return null
        if (error) throw error;
        return null;
      }
      const count = Math.min(chunk.length, buf.length);
      buf.set(chunk.subarray(0, count));
      if (count < chunk.length) state.unread.unshift(chunk.subarray(count));
      return count;
    },
    async write(bytes) {
      const count = socket.write(bytes);
      if (count < 0) { // closed: throw the reason, if Bun has told it
        throw state.errors.shift() ?? Error("the connection is closed");
      }
      if (count === 0) await state.wait(); // any callback ends it: try again
      return count;
    },
    closeWrite: () => Promise.resolve(socket.shutdown()), // it never rejects
    close: () => socket.close(),
  };
}

/** Makes wait() and wake(): wake() ends each wait() that is pending. */
function condition() {
  const waiting: (() => void)[] = [];
  return {
    wait: () => new Promise<void>((resolve) => waiting.push(resolve)),
    wake() {
      for (const resolve of waiting.splice(0)) resolve();
    },
  };
}

// ---- Types: what the two scripts use of Deno and of Bun

interface DenoRuntime {
  process: { argv: string[]; exit(code: number): never };
  Deno: {
    args: string[];
    listen(options: object): Listener;
    connect(options: object): Promise<Conn>;
    build: { os: string };
    stdout: { writeSync(data: Uint8Array): number; isTerminal(): boolean };
  };
}

interface BunRuntime {
  process: { argv: string[]; exit(code: number): never };
  Deno?: undefined; // so that runtime.Deno tells which of the two it is
  Bun: {
    listen(options: object): { port: number; stop(): void };
    connect(options: object): Promise<BunSocket>;
  };
  console: { write(data: Uint8Array): number | Promise<number> };
}

interface Listener {
  addr: { port: number };
  accept(): Promise<Conn>;
  close(): void;
}

interface Conn {
  /** Reads into `buf`, and returns how many bytes, or null at the end. */
  read(buf: Uint8Array): Promise<number | null>;
  /** Writes what the system takes now, and returns how many bytes, maybe 0. */
  write(bytes: Uint8Array): Promise<number>;
  /** Tells the other end that no more will come. One can still read. */
  closeWrite(): Promise<void>;
  close(): void;
}

interface BunSocket {
  data: {
    unread: Uint8Array[];
    errors: Error[]; // a reset that read() or write() has not yet thrown
    ended: boolean; // no more will come
    wait(): Promise<void>;
    wake(): void;
  };
  /** Returns how many bytes it took, or a negative number if it is closed. */
  write(bytes: Uint8Array): number;
  shutdown(): void;
  close(): void;
  pause(): void;
  resume(): void;
}

type SystemError = Error & { code?: string };
