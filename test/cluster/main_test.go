//go:build cluster

// Package cluster runs lxcboot below real cluster software, on hosts that are made of
// namespaces of this machine: docs/testing.md says how.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/test/host"
)

// work holds all that the run makes: install/, which is what make install makes, and a
// directory for each cluster. Its name is part of that of each control group.
var work string

// clusters counts those that were started.
var clusters atomic.Int32

// inner names the directory to the process that runs the tests.
const inner = "LXCBOOT_CLUSTER_WORK"

// TestMain runs the tests in a process of their own, so that what they leave on this machine
// is taken away however they end, also by a limit or by a kill. The namespaces and all that
// runs in them end with that process.
func TestMain(m *testing.M) {
	if work = os.Getenv(inner); work != "" {
		os.Unsetenv(inner)
		os.Exit(m.Run())
	}
	code, err := outer()
	if err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		code = 1
	}
	os.Exit(code)
}

func outer() (code int, err error) {
	if os.Geteuid() != 0 {
		return 0, errors.New("needs root, a libvirtd that answers at lxc:///, and what test/setup/install cluster installs")
	}
	before, err := host.Look(context.Background())
	if err != nil {
		return 0, err
	}
	if work, err = os.MkdirTemp("", "lxcboot-cluster-"); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, cleanUp(before)) }()
	if err := os.Chmod(work, 0o755); err != nil {
		return 0, err
	}
	if err := makeTarget("install"); err != nil {
		return 0, err
	}
	// Who ends this by a key has ended the tests with it.
	signal.Ignore(unix.SIGINT, unix.SIGQUIT)
	tests := exec.Command(os.Args[0], os.Args[1:]...)
	tests.Env = append(os.Environ(), inner+"="+work)
	tests.Stdout, tests.Stderr = os.Stdout, os.Stderr
	if err := spawn(tests); err != nil {
		return 0, err
	}
	err = tests.Wait()
	if err == nil {
		return 0, uninstall()
	}
	if code := tests.ProcessState.ExitCode(); code > 0 {
		return code, nil // they have said why
	}
	return 0, fmt.Errorf("the tests ended by themselves: %w", err)
}

// makeTarget makes install or uninstall, below the directory of the run.
func makeTarget(target string) error {
	out, err := exec.Command("make", "-s", "-C", "../..", target, "DESTDIR="+filepath.Join(work, "install"), "PREFIX=/usr/local").CombinedOutput()
	if err != nil {
		return fmt.Errorf("make %s: %w\n%s", target, err, out)
	}
	return nil
}

// uninstall sees that make uninstall removes all that make install has installed.
func uninstall() error {
	if err := makeTarget("uninstall"); err != nil {
		return err
	}
	return filepath.WalkDir(filepath.Join(work, "install"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			err = fmt.Errorf("make uninstall leaves %s", path)
		}
		return err
	})
}

// cleanUp takes away what tests that were cut short have left, and compares the machine
// with what it was.
func cleanUp(before host.State) error {
	err := errors.Join(removeGroups(), detachLoops(work), os.RemoveAll(work))
	mine := func(s host.State) host.State { return s.Of(filepath.Base(work)) }
	left, e := host.Settle(context.Background(), mine(before), mine, 20*time.Second)
	if len(left) > 0 {
		e = errors.Join(e, fmt.Errorf("the tests left this behind:\n%s", strings.Join(left, "\n")))
	}
	return errors.Join(err, e)
}
