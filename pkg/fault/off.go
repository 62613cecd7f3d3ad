//go:build !faults

package fault

// Point does nothing in an ordinary build.
func Point(string) {}
