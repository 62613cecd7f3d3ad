package local

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// lockHolder names the process that has a file or directory locked, as far as the
// kernel tells, which it does not across pid namespaces.
func lockHolder(path string) string {
	const unknown = "another process"
	fi, err := os.Stat(path)
	if err != nil {
		return unknown
	}
	f, err := os.Open("/proc/locks")
	if err != nil {
		return unknown
	}
	defer f.Close()
	inode := fmt.Sprintf(":%d", fi.Sys().(*syscall.Stat_t).Ino)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		// "1: FLOCK  ADVISORY  WRITE 4711 08:01:131 0 EOF"; "1: -> FLOCK …" waits for it.
		// The device is not always what stat(2) says, so the holder's files are looked at.
		l := strings.Fields(lines.Text())
		var pid int
		if len(l) < 6 || l[1] != "FLOCK" || !strings.HasSuffix(l[5], inode) {
			continue
		}
		if _, err := fmt.Sscan(l[4], &pid); err == nil && hasOpen(pid, fi) {
			return processName(pid)
		}
	}
	return unknown
}

// hasOpen says whether a process has a file open.
func hasOpen(pid int, file os.FileInfo) bool {
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	return slices.ContainsFunc(fds, func(fd string) bool {
		fi, err := os.Stat(fd)
		return err == nil && os.SameFile(fi, file)
	})
}

// processName is a process as people know it: "process 4711 (lxcboot, stopped)".
func processName(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	// "4711 (lxcboot) T 1 …", where the name may hold anything.
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
