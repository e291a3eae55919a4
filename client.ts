/**
 * The client of the classic PHP socket example, on the native TCP of Bun or of
 * Deno: it connects, sends a message, and prints what the server sends until
 * the server closes.
 *
 *     bun client.ts [ip] [port] [message]
 *     deno run --allow-net client.ts [ip] [port] [message]
 */
export {}; // makes this a module, in which await may stand at the top

const runtime = onDeno() ?? onBun() ?? onNeither();
const encoder = new TextEncoder();
const { ip, port, message } = await readArguments();

// socket_create and socket_connect are one call here.
tell(`正在連線 ${ip}:${port}`);
const sock = await connect(ip, port);
tell("已連線");

// socket_write
const sent = await write(sock, encoder.encode(message));
if (sent !== null) tell(`已傳送 ${sent} 個位元組`);

// socket_read
const buf = new Uint8Array(8192);
let received = 0;
let length;
while ((length = await read(sock, buf)) > 0) {
  await echo(buf.subarray(0, length));
  received += length;
}
tell(`已收到 ${received} 個位元組`);

// socket_close
sock.close();
tell("已關閉連線");
if (sent === null) process.exit(1);

/** Connects, or ends the program. */
function connect(hostname: string, port: number): Promise<Conn> {
  return runtime.connect(hostname, port)
    .catch(die("socket_connect() 失敗的原因是:"));
}

/**
 * Sends all of `data`: how many bytes, or null where that failed, for the
 * server may have said something first.
 */
function write(conn: Conn, data: Uint8Array): Promise<number | null> {
  return writeAll(conn, data)
    .catch(warn("socket_write() 失敗的原因是:"));
}

/** Reads once: how many bytes are now in `buf`, 0 at the end. */
async function read(conn: Conn, buf: Uint8Array): Promise<number> {
  return await conn.read(buf)
    .catch(die("socket_read() 失敗的原因是:")) ?? 0;
}

/** Writes all of `data` to stdout, or ends the program. */
function echo(data: Uint8Array): Promise<number> {
  return writeAll(runtime.stdout, data)
    .catch(die("echo 失敗的原因是:"));
}

/**
 * Writes all of `data`, since a single write may take only a part. Gives its
 * length in bytes, and throws what `to.write` throws.
 */
async function writeAll(to: Writer, data: Uint8Array): Promise<number> {
  for (let sent = 0; sent < data.length;) {
    sent += await to.write(data.subarray(sent));
  }
  return data.length;
}

/** Says a line on stderr, where there is one. */
function tell(line: string): void {
  try {
    console.error(line);
  } catch {
    // Deno throws for a stderr that is full or closed: nobody is left to tell.
  }
}

/** Makes a handler that says on stderr which step failed and why. */
function warn(step: string) {
  return (error: SystemError) => {
    tell(step + strerror(error));
    return null;
  };
}

/** Makes a handler that says which step failed and why, and exits with 1. */
function die(step: string) {
  return (error: SystemError) => {
    warn(step)(error);
    return process.exit(1);
  };
}

/**
 * The reason for an error in the system's words and its code, the same on both
 * runtimes: `Broken pipe (EPIPE)`. Without a code, the error's own message.
 */
function strerror({ code, message }: SystemError): string {
  // Bun's own messages give no reason. The words are those of glibc's strerror.
  const words: Record<string, string> = {
    DNS_ENOTFOUND: "Name or service not known",
    EACCES: "Permission denied",
    EADDRINUSE: "Address already in use",
    EADDRNOTAVAIL: "Cannot assign requested address",
    ECONNREFUSED: "Connection refused",
    ECONNRESET: "Connection reset by peer",
    EHOSTUNREACH: "No route to host",
    ENETUNREACH: "Network is unreachable",
    ENOSPC: "No space left on device",
    ENOTCONN: "Transport endpoint is not connected",
    EPIPE: "Broken pipe",
    ETIMEDOUT: "Connection timed out",
  };
  if (code === undefined) return message;
  return `${words[code] ?? message.replace(/ \(os error \d+\)/, "")} (${code})`;
}

/** The arguments, checked. Wrong ones, and `--help`, end the program. */
async function readArguments() {
  const { args } = runtime;
  const usage = "用法:client.ts [ip] [port] [message]   預設 127.0.0.1 1935";
  const greeting = "你好,伺服器!\n";
  const [ip = "127.0.0.1", port = "1935", message = greeting, ...others] = args;
  // A third argument is a message, whatever it says.
  if ([ip, port].some((text) => text === "-h" || text === "--help")) {
    await echo(encoder.encode(`${usage}\n`));
    process.exit(0);
  }
  const wrong = !/^0*[1-9]\d*$/.test(port) || Number(port) > 65535
    ? `port 必須是 1 到 65535 的整數:${JSON.stringify(port)}`
    : others.length > 0
    ? `引數太多:${JSON.stringify(others[0])}`
    : "";
  if (wrong) {
    tell(`${wrong}\n${usage}`);
    process.exit(2);
  }
  return { ip, port: Number(port), message };
}

// ---- Deno and Bun. The story stands on the shape of Deno's Conn, which Bun's
// ---- callbacks are given here.

interface Writer {
  /** Takes at least one byte of `data`, and gives how many it took. */
  write(data: Uint8Array): number | Promise<number>;
}

interface Conn extends Writer {
  /** Puts what has come into `buf`: how many bytes, or null at the end. */
  read(buf: Uint8Array): Promise<number | null>;
  close(): void;
}

interface SystemError extends Error {
  code?: string;
}

/** All three runtimes have it, and Bun has no other exit. */
declare const process: { exit(code: number): never };

declare const Deno: {
  args: string[];
  connect(options: { hostname: string; port: number }): Promise<Conn>;
  stdout: { writeSync(data: Uint8Array): number };
} | undefined;

/** What the story needs of Deno, or undefined elsewhere. */
function onDeno() {
  if (typeof Deno === "undefined") return undefined;
  const { args, connect, stdout } = Deno;
  return {
    args,
    connect: (hostname: string, port: number) => connect({ hostname, port }),
    // Its async write goes through a thread, and is slower.
    stdout: { write: (data: Uint8Array) => stdout.writeSync(data) },
  };
}

declare const Bun: {
  argv: string[];
  dns: {
    lookup(hostname: string, options: { backend: "libc" }): Promise<unknown>;
  };
  connect(options: {
    hostname: string;
    port: number;
    allowHalfOpen: boolean;
    socket: ReturnType<typeof bunHandlers>;
  }): Promise<unknown>;
  stdout: {
    writer(): { write(data: Uint8Array): unknown; flush(): unknown };
  };
} | undefined;

declare function setImmediate<T>(run: (value: T) => void, value: T): unknown;

interface BunSocket {
  data: BunState;
  /** Gives how many bytes it took: 0 until `drain`, -1 once closed. */
  write(data: Uint8Array): number;
  end(): void;
  pause(): void;
  resume(): void;
}

interface BunState {
  unread: Uint8Array[];
  /** Null at the end, an error where that failed, and until then undefined. */
  end?: SystemError | null;
  changed(): void;
}

/** The same of Bun, its callbacks in Deno's shape, or undefined elsewhere. */
function onBun() {
  if (typeof Bun === "undefined") return undefined;
  const { argv, connect, dns, stdout } = Bun;
  const writer = stdout.writer();
  return {
    args: argv.slice(2),
    connect: (hostname: string, port: number) =>
      new Promise<Conn>((resolve, reject) => {
        connect({
          hostname,
          port,
          allowHalfOpen: true, // a server that has said all still gets all
          socket: bunHandlers(resolve),
        }).catch(async (error) => {
          // Bun up to 1.3 says ECONNREFUSED of a name that does not resolve too.
          await dns.lookup(hostname, { backend: "libc" }).catch(reject);
          reject(error);
        });
      }),
    stdout: {
      async write(data: Uint8Array) {
        const written = await writer.write(data);
        const flushed = await writer.flush();
        // Bun up to 1.4.0 may give true for a closed pipe instead of rejecting.
        if (written === true || flushed === true) throw systemError("EPIPE");
        return data.length;
      },
    },
  };
}

/** Bun's callbacks. `opened` is given a Conn for each socket that opens. */
function bunHandlers(opened: (conn: Conn) => void) {
  const changed = ({ data }: BunSocket) => data.changed();
  return {
    open(socket: BunSocket) {
      // Bun reads on its own: nothing may be read before it is asked for.
      socket.pause();
      socket.data = { unread: [], changed() {} };
      opened(bunConn(socket));
    },
    data(socket: BunSocket, chunk: Uint8Array) {
      // Nobody has read what came before: let the rest wait in the system.
      if (socket.data.unread.length > 0) socket.pause();
      socket.data.unread.push(chunk);
      socket.data.changed();
    },
    drain: changed,
    end(socket: BunSocket) {
      // Bun up to 1.3 says end for a reset too (oven-sh/bun#39600): then close
      // with an error in the same tick, or nothing but end again and again.
      if (socket.data.end === undefined) {
        socket.data.end = null;
      } else {
        socket.data.end = systemError("ECONNRESET");
        socket.end();
      }
      setImmediate(changed, socket);
    },
    close(socket: BunSocket, error?: SystemError) {
      const { data } = socket;
      // Bun up to 1.3 takes epoll's EPOLLERR for an errno: 8, which is ENOEXEC.
      if (error?.code === "ENOEXEC") data.end = systemError("ECONNRESET");
      // A reset behind the end is no news: all was said.
      else if (data.end === undefined) data.end = error ?? null;
      data.changed();
    },
  };
}

/** A Bun socket as a Conn. */
function bunConn(socket: BunSocket): Conn {
  const state = socket.data;
  const change = () => new Promise<void>((done) => state.changed = done);
  const throwError = () => {
    const error = state.end;
    if (!error) return;
    state.end = null; // as the system does: it tells of an error once
    throw error;
  };
  return {
    async read(buf) {
      while (state.unread.length === 0) {
        throwError();
        if (state.end === null) return null;
        socket.resume();
        await change();
      }
      const [chunk] = state.unread;
      const length = Math.min(chunk.length, buf.length);
      buf.set(chunk.subarray(0, length));
      state.unread[0] = chunk.subarray(length);
      if (length === chunk.length) state.unread.shift();
      return length;
    },
    async write(data) {
      while (true) {
        const sent = socket.write(data);
        if (sent > 0) return sent;
        // Closed, and Bun may never say why: a reset is what does that.
        if (sent < 0) state.end ??= systemError("ECONNRESET");
        throwError();
        await change();
      }
    },
    close: () => socket.end(),
  };
}

/** An error as the runtimes make them, for the places where Bun makes none. */
function systemError(code: string): SystemError {
  return Object.assign(new Error(code), { code });
}

/** Says what to run this with, and exits with 1. */
function onNeither(): never {
  tell("請用 bun client.ts 或 deno run --allow-net client.ts 執行");
  return process.exit(1);
}
