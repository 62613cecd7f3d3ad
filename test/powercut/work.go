package powercut

import _ "embed"

// Work is a shell script, work.sh, that uses each kind of command, and says each that it
// begins and each that has returned. Its head lists its arguments.
//
//go:embed work.sh
var Work string

// What is said is one sector of the disk.
const (
	lineSize   = 512
	linePrefix = "powercut "
)
