package bench

// maxrssUnit is the unit of Rusage.Maxrss in bytes; see getrusage(2).
const maxrssUnit = 1 << 10
