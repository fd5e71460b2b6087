// The error for a value that can't work; the message says why, and what would work.

export class Refused extends Error {}
