package cgroup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// systemdLimit is how long systemd may take to answer.
const systemdLimit = 20 * time.Second

// systemd says whether systemd is this host's init: sd_booted(3).
func systemd() bool {
	_, err := os.Stat("/run/systemd/system")
	return err == nil
}

// machined says whether libvirt has systemd-machined make the containers' groups: where
// systemd can start it.
func machined() bool {
	_, err := os.Stat("/usr/share/dbus-1/system-services/org.freedesktop.machine1.service")
	return err == nil && systemd()
}

// makeSlice has systemd make the slice that machined will put the container's scope into,
// a unit that is nowhere but in its memory.
func makeSlice(ctx context.Context, id string, l Limits) error {
	properties := []string{"4",
		"MemoryMax", "t", strconv.FormatInt(int64(l.MemoryMiB)<<20, 10),
		"MemorySwapMax", "t", strconv.FormatInt(int64(l.SwapMiB)<<20, 10),
		"CPUQuotaPerSecUSec", "t", strconv.Itoa(l.VCPUs * 1_000_000),
		"TasksMax", "t", strconv.Itoa(l.Processes),
	}
	words := append([]string{"StartTransientUnit", "ssa(sv)a(sa(sv))", slice(id), "fail"}, properties...)
	err := manager(ctx, append(words, "0")...)
	if err != nil { // it is there already: a command that was killed made it
		if again := manager(ctx, append([]string{"SetUnitProperties", "sba(sv)", slice(id), "true"}, properties...)...); again == nil {
			return nil
		}
	}
	return err
}

// manager calls a method of systemd.
func manager(ctx context.Context, words ...string) error {
	const service = "org.freedesktop.systemd1"
	return run(ctx, "busctl", append([]string{"--quiet", "call", service, "/org/freedesktop/systemd1", service + ".Manager"}, words...)...)
}

func run(ctx context.Context, program string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, systemdLimit)
	defer cancel()
	start := time.Now()
	out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	slog.Debug("ran", "argv", append([]string{program}, args...), "time", time.Since(start), "error", err)
	if err != nil {
		return fmt.Errorf("%s: %w", strings.TrimSpace(program+": "+string(bytes.TrimSpace(out))), err)
	}
	return nil
}

// removeSlice ends the slice, where it is, and returns when it has.
func removeSlice(ctx context.Context, id string, tops []Group) error {
	for _, top := range tops {
		_, err := os.Stat(filepath.Join(top.Dir, "machine.slice", "machine-lxcboot.slice", slice(id)))
		if err == nil {
			return run(ctx, "systemctl", "stop", slice(id))
		}
		if !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}
