import { readFileSync } from "node:fs";
import { Ajv, type ValidateFunction } from "ajv";

const ajv = new Ajv({ allErrors: true, strict: true, strictRequired: false, allowUnionTypes: true });
const compiled = new Map<string, ValidateFunction>();

/** What is wrong with `value` as output of `command`, in words; "" when nothing is. */
export function schemaErrors(command: string, value: unknown): string {
  let validate = compiled.get(command);
  if (validate === undefined) {
    const text = readFileSync(new URL(`./schemas/${command}.json`, import.meta.url), "utf8");
    validate = ajv.compile(JSON.parse(text) as object);
    compiled.set(command, validate);
  }
  return validate(value) ? "" : `${command}: ${ajv.errorsText(validate.errors)} in ${JSON.stringify(value)}`;
}
