/** What texts may hold: sizes in UTF-8 bytes, and nothing that draws outside its line. Spec: ./SPEC.md CO10-CO14. */
import { utf8 } from "#protocols/base/bytes.ts";
import { refine, type Schema, text } from "#protocols/base/codec.ts";

/** C0 and C1 controls and DEL. In a terminal they move the cursor and set the title. */
const CONTROL = /\p{Cc}/u;
/** The same without \n and \t, which a message may hold. */
const CONTROL_IN_MESSAGE = /[^\P{Cc}\n\t]/u;
/** Line separators, and the marks that turn writing direction around: in a name they rewrite the line it stands in. */
const LAYOUT = /[\u2028\u2029\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069]/u;
/** Something to see: not only spaces, joiners and other format characters. */
const VISIBLE = /[^\p{White_Space}\p{Cf}\p{Cc}\p{Default_Ignorable_Code_Point}]/u;

/** The length a person's name may have: a line on a small screen, and enough for 16 emoji. */
export const MAX_NAME_BYTES = 64;
/** Longest text of one message. Larger ones go as a file. */
export const MAX_TEXT_BYTES = 16_384;
/** What a stranger may write into a contact request. */
export const MAX_GREETING_BYTES = 512;
/** Longest multiaddr text; a circuit address with two PeerIds and a certhash takes about 250. */
export const MAX_ADDRESS_BYTES = 512;

function fits(value: string, maxBytes: number): boolean {
  return value.length <= maxBytes && value.isWellFormed() && utf8(value).length <= maxBytes;
}

/** May a person be called that? */
export function isName(value: string): boolean {
  return fits(value, MAX_NAME_BYTES) && VISIBLE.test(value) && !CONTROL.test(value) && !LAYOUT.test(value);
}

/** May a message say that? */
export function isMessageText(value: string): boolean {
  return value.length > 0 && fits(value, MAX_TEXT_BYTES) && !CONTROL_IN_MESSAGE.test(value);
}

function isGreeting(value: string): boolean {
  return value.length > 0 && fits(value, MAX_GREETING_BYTES) && !CONTROL_IN_MESSAGE.test(value);
}

/** Form only: printable ASCII that starts with a slash. What it points to is the network's business. */
export function isAddress(value: string): boolean {
  return value.length <= MAX_ADDRESS_BYTES && /^\/[\u0021-\u007e]+$/.test(value);
}

export const nameSchema: Schema<string> = refine(text(MAX_NAME_BYTES), "content/name", isName);
export const messageTextSchema: Schema<string> = refine(text(MAX_TEXT_BYTES), "content/text", isMessageText);
export const greetingSchema: Schema<string> = refine(text(MAX_GREETING_BYTES), "content/text", isGreeting);
export const addressSchema: Schema<string> = refine(text(MAX_ADDRESS_BYTES), "content/address", isAddress);
export const peerIdSchema: Schema<string> = refine(text(128), "content/peer-id", (value) =>
  /^[A-Za-z0-9]{1,128}$/.test(value),
);
