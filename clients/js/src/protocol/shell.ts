/** Arguments quoted for the shell, so that each arrives as it is. */

export type Command = string | readonly string[];

export function shellLine(command: Command): string {
  return typeof command === "string" ? command : command.map(quoted).join(" ");
}

function quoted(argument: string): string {
  if (argument === "") return "''";
  return /[^\w@%+=:,./-]/.test(argument) ? `'${argument.replaceAll("'", `'"'"'`)}'` : argument;
}
