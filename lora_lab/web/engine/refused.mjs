// What was given can't work; the message says why, and what would.

export class Refused extends Error {}
