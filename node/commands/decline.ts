import { answerTo } from "../answer.ts";

export const spec = answerTo("decline", "Decline a contact request");
