// A Baileys client as applications use it: saved credentials, a new socket whenever the old one ends.

import { EventEmitter, once } from 'node:events';
import { Agent } from 'node:https';
import { connect } from 'node:tls';
import makeWASocket, { DisconnectReason, WA_CERT_DETAILS, useMultiFileAuthState } from 'baileys';

export const PATIENCE = 30_000;

// Applications often ask the internet which version is the newest. There may be no internet here.
const VERSION = [2, 3000, 1043857760];

/** Before version 7 it says that it takes history inside messages, and fails with it, and with whatever comes meanwhile. */
export const READS_HISTORY = Boolean(WA_CERT_DETAILS.PUBLIC_KEY);

/** The emulator's chain begins with a key of its own. */
export function trust(root) {
  if (WA_CERT_DETAILS.PUBLIC_KEY) WA_CERT_DETAILS.PUBLIC_KEY = Buffer.from(root, 'hex');
}

const quiet = { level: 'silent', child: () => quiet };
for (const level of ['trace', 'debug', 'info', 'warn', 'error', 'fatal']) quiet[level] = () => {};

/** For versions that load media from WhatsApp's own host, whatever an address says: here that is the emulator. */
export function mediaOptions(url) {
  const { hostname: host, port } = new URL(url);
  const httpsAgent = new Agent();
  httpsAgent.createConnection = (options, connected) => connect({ ...options, host, port }, connected);
  return { options: { httpsAgent } };
}

export class Client {
  #url;
  #folder;
  #saved;
  #heard = [];
  #hears = new EventEmitter().setMaxListeners(0);

  constructor(url, phone, folder) {
    this.#url = url;
    this.#folder = folder;
    this.phone = phone;
    this.jid = `${phone}@s.whatsapp.net`;
  }

  /** The own address that does not tell the number. */
  get lid() {
    const { lid } = this.sock.authState.creds.me;
    return lid && `${lid.split(/[:@]/)[0]}@lid`;
  }

  /** A new socket with the credentials as they were saved last. */
  async open() {
    await this.#saved;
    const { state, saveCreds } = await useMultiFileAuthState(this.#folder);
    const config = { waWebSocketUrl: this.#url, version: VERSION, auth: state, logger: quiet };
    if (!READS_HISTORY) config.shouldSyncHistoryMessage = () => false;
    this.sock = makeWASocket(config);
    this.sock.ev.on('creds.update', () => {
      this.#saved = saveCreds();
    });
    const mark = this.#heard.length;
    this.sock.ev.process((events) => {
      for (const [event, data] of Object.entries(events)) {
        const things = event === 'messages.upsert' ? data.messages : Array.isArray(data) ? data : [data];
        for (const thing of things) {
          this.#heard.push({ event, thing });
          this.#hears.emit('more');
        }
      }
    });
    return mark;
  }

  /** Opens a socket and has it linked; the server ends the connection when that is done. */
  async link(hand) {
    const mark = await this.open();
    const { qr } = await this.until('connection.update', (update) => update.qr, 'QR code', mark);
    await hand(qr);
    await this.#closed(mark, DisconnectReason.restartRequired);
  }

  /** Logs in; everything that was kept for this client has been handed over then. */
  async login() {
    const mark = await this.open();
    await this.until('connection.update', (update) => update.connection === 'open', 'open connection', mark);
    await this.until('connection.update', (update) => update.receivedPendingNotifications, 'end of the queue', mark);
  }

  async loginIsRefused() {
    await this.#closed(await this.open(), DisconnectReason.loggedOut);
  }

  async leave() {
    await this.sock.end(undefined);
  }

  async #closed(mark, expected) {
    const closed = (update) => update.connection === 'close';
    const { lastDisconnect } = await this.until('connection.update', closed, `end with ${expected}`, mark);
    const code = lastDisconnect.error?.output?.statusCode;
    if (code !== expected) throw new Error(`closed with ${code}, not ${expected}: ${lastDisconnect.error?.message}`);
  }

  /** Asks for a pairing code; the server knows of it when this returns. */
  async pairingCode() {
    const known = once(this.sock.ws, 'CB:iq,,link_code_companion_reg', { signal: AbortSignal.timeout(PATIENCE) });
    const code = await this.sock.requestPairingCode(this.phone);
    await known;
    return code;
  }

  /** What fits among everything heard so far. */
  heard(event, fits, since = 0) {
    const fitting = (heard) => heard.event === event && fits(heard.thing);
    return this.#heard.slice(since).filter(fitting).map(({ thing }) => thing);
  }

  /** The first thing that fits, heard already or soon. */
  until(event, fits, what, since = 0) {
    return eventually(what, () => this.heard(event, fits, since)[0], this.#hears);
  }

  /** Waits until a message of this client got so far. While Baileys holds events back, it tells so in the message. */
  async status(id, atLeast) {
    const reached = () =>
      this.heard('messages.update', ({ key, update }) => key.id === id && update.status >= atLeast)[0] ??
      this.heard('messages.upsert', ({ key, status }) => key.id === id && status >= atLeast)[0];
    await eventually(`status ${atLeast} of ${id}`, reached, this.#hears);
  }

  /** The same in a group, where every member has a receipt of his own. */
  async deliveredInGroup(id) {
    const reached = () =>
      this.heard('message-receipt.update', ({ key, receipt }) => key.id === id && receipt.receiptTimestamp)[0] ??
      this.heard('messages.upsert', ({ key, userReceipt }) => key.id === id && userReceipt?.[0]?.receiptTimestamp)[0];
    await eventually(`receipt of ${id}`, reached, this.#hears);
  }
}

/** Waits until `look` finds something, looking whenever `signs` has more to tell. */
function eventually(what, look, signs) {
  return new Promise((resolve, reject) => {
    const end = (settle) => {
      clearTimeout(timer);
      signs.off('more', check);
      settle();
    };
    const check = () => {
      try {
        const found = look();
        if (found) end(() => resolve(found));
      } catch (error) {
        end(() => reject(error));
      }
    };
    const timer = setTimeout(() => end(() => reject(new Error(`no ${what} within ${PATIENCE} ms`))), PATIENCE);
    signs.on('more', check);
    check();
  });
}
