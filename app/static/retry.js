// What an engine throws where the same question may go better in a moment; any other Error is final.
export class Retry extends Error {}
