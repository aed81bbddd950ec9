// What is thrown where a part of the page could not be fetched: the model, libjpeg, LittleCMS. Some browsers keep that a
// module could not be fetched, so that only another worker can ask again: engine.js starts one.
export class Unloaded extends Error {}

export const loaded = (promise) => promise.catch((error) => { throw new Unloaded(error.message); });
