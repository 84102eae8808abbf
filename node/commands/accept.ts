import { answerTo } from "../answer.ts";

export const spec = answerTo("accept", "Accept a contact request");
