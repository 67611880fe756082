// Package prefetch brings memory into the processor's cache before it is used. A line that another processor wrote or read last takes 50 to 250 ns to come, and
// stores leave the processor in order: without a hint each of a batch waits for the one before. Hints change nothing else, and never fault.
package prefetch

// Line is the step in bytes: a cache line.
const Line = 64

// Frame is how much of a frame is worth a hint, in bytes: its headers. The processor notices by itself that what follows is read in a row.
const Frame = 2 * Line
