// Package fault names the points between two effects, so that a test build can
// stop the process at each of them. In an ordinary build a point costs nothing.
package fault
