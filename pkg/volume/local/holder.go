package local

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// lockHolder names the process that has a file or directory locked, as far as the
// kernel tells: it does not across pid namespaces, nor where a filesystem shows other
// device numbers to stat(2) than it has itself (btrfs, overlayfs).
func lockHolder(path string) string {
	const unknown = "another process"
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return unknown
	}
	file := fmt.Sprintf("%02x:%02x:%d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
	f, err := os.Open("/proc/locks")
	if err != nil {
		return unknown
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		// 1: FLOCK  ADVISORY  WRITE 4711 08:01:131 0 EOF; "1: -> FLOCK …" waits for it
		l := strings.Fields(lines.Text())
		var pid int
		if len(l) > 5 && l[1] == "FLOCK" && l[5] == file {
			if _, err := fmt.Sscan(l[4], &pid); err == nil && pid > 0 {
				return processName(pid)
			}
		}
	}
	return unknown
}

// processName is a process as people know it: "process 4711 (lxcboot, stopped)".
func processName(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	// 4711 (lxcboot) T 1 …, where the name may hold anything.
	_, after, _ := strings.Cut(string(b), " (")
	at := strings.LastIndex(after, ") ")
	if err != nil || at < 0 {
		return fmt.Sprintf("process %d", pid)
	}
	name, state := after[:at], after[at+2:]
	if strings.HasPrefix(state, "T") || strings.HasPrefix(state, "t") {
		name += ", stopped"
	}
	return fmt.Sprintf("process %d (%s)", pid, name)
}
