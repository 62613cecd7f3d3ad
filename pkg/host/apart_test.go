package host

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestMain lets the test's own program be the caller whose control groups are left, and
// one that has inherited a descriptor.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "start-apart": // reads a line, then starts sleep and prints its number
			fmt.Scanln()
			cmd, warning, err := StartApart(Scope{}, func() *exec.Cmd { return exec.Command("sleep", "1000") })
			if warning != nil || err != nil {
				fmt.Println(warning, err)
				if err == nil && cmd.Process.Kill() == nil && cmd.Wait() != nil {
					fmt.Println("it runs")
				}
				os.Exit(1)
			}
			fmt.Println(cmd.Process.Pid)
			os.Exit(0)
		case "close-on-exec": // prints what a program that it starts holds
			if err := CloseOnExec(); err != nil {
				panic(err)
			}
			cmd := exec.Command("ls", "/proc/self/fd")
			cmd.Stdout = os.Stdout
			cmd.ExtraFiles = []*os.File{os.Stdout} // os/exec passes on what it is told to
			if err := cmd.Run(); err != nil {
				panic(err)
			}
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

// A process that is started apart is in no control group of its caller's, in any
// hierarchy, and nothing has to be removed when it has ended.
func TestStartApart(t *testing.T) {
	withoutSystemd(t)
	caller := exec.Command(os.Args[0], "start-apart")
	in, out, name := callIn(t, caller)
	fmt.Fprintln(in, "go")
	must(t, caller.Wait())
	pid, err := strconv.Atoi(strings.TrimSpace(out.String()))
	if err != nil {
		t.Fatal(out.String())
	}
	started, _ := os.FindProcess(pid)
	defer started.Kill()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	must(t, err)
	if strings.Contains(string(data), name) {
		t.Errorf("of the caller's groups the process is still in these:\n%s", data)
	}
}

// callIn starts a caller in control groups of its own, in each hierarchy that can be written,
// and gives its input, its output and the name of its groups. They go at the test's end.
func callIn(t *testing.T, caller *exec.Cmd) (in io.Writer, out *strings.Builder, name string) {
	t.Helper()
	name = fmt.Sprintf("lxcboot-ut-%d", os.Getpid())
	in, err := caller.StdinPipe()
	must(t, err)
	out = &strings.Builder{}
	caller.Stdout = out
	must(t, caller.Start())
	t.Cleanup(func() { caller.Process.Kill(); caller.Wait() })

	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	must(t, err)
	groups := 0
	for _, m := range mounts {
		dir := filepath.Join(m.Mountpoint, name)
		if err := os.Mkdir(dir, 0o755); err != nil && !os.IsExist(err) {
			continue // not ours to write
		}
		t.Cleanup(func() { eventually(t, "an empty group to go", func() bool { return os.Remove(dir) == nil }) })
		for _, f := range []string{"cpuset.cpus", "cpuset.mems"} { // v1's cpuset takes nobody without
			if data, err := os.ReadFile(filepath.Join(m.Mountpoint, f)); err == nil {
				os.WriteFile(filepath.Join(dir, f), data, 0)
			}
		}
		if os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(caller.Process.Pid)), 0) == nil {
			groups++
		}
	}
	if groups == 0 {
		t.Fatal("no hierarchy of control groups can be written here")
	}
	return in, out, name
}

// What the process stays in, because it cannot be left, is said, and the process runs.
func TestStartApartStays(t *testing.T) {
	withoutSystemd(t)
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	must(t, err)
	// In a mount namespace of its own, where none can be written.
	caller := exec.Command("unshare", "-m", "sh", "-c", `read go; for at; do mount -o remount,bind,ro "$at" || exit; done; echo go | "$0" start-apart`, os.Args[0])
	for _, m := range mounts {
		caller.Args = append(caller.Args, m.Mountpoint)
	}
	in, out, name := callIn(t, caller)
	fmt.Fprintln(in, "go")
	err = caller.Wait()
	if pid, e := strconv.Atoi(strings.TrimSpace(out.String())); e == nil { // it was not said
		started, _ := os.FindProcess(pid)
		started.Kill()
	}
	if err == nil || !strings.Contains(out.String(), "stays in the control group") || !strings.Contains(out.String(), name) || !strings.Contains(out.String(), "it runs") {
		t.Errorf("%v: %q", err, out)
	}
}

// Where a hierarchy cannot be written the process runs all the same, and that is said.
func TestStartApartIsBestEffort(t *testing.T) {
	withoutSystemd(t)
	systemdDir = t.TempDir() // systemd is there, and its tool is not
	t.Setenv("PATH", "")
	cmd, warning, err := StartApart(Scope{Name: "x"}, func() *exec.Cmd { return exec.Command("/bin/sleep", "1000") })
	must(t, err)
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	if warning == nil {
		t.Error("nothing is said of it")
	}
}

// Under systemd the process gets a scope of its own, keeps its number and what it was
// given, and runs also where systemd refuses.
func TestScope(t *testing.T) {
	for _, fake := range []struct {
		name, script string
		warned       bool
	}{
		{"a scope", `printf '%s\n' "$@" >"$0.args"; while [ "$1" != -- ]; do shift; done; shift; exec "$@"`, false},
		{"refused", `exit 1`, true},
		{"stands still", `exec sleep 1000`, true},
	} {
		t.Run(fake.name, func(t *testing.T) {
			withoutSystemd(t)
			dir := t.TempDir()
			systemdDir = dir
			scopeLimit = 300 * time.Millisecond
			if !fake.warned {
				scopeLimit = 20 * time.Second
			}
			run := filepath.Join(dir, "systemd-run")
			must(t, os.WriteFile(run, []byte("#!/bin/sh\n"+fake.script+"\n"), 0o755))
			t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
			r, w, err := os.Pipe()
			must(t, err)
			defer r.Close()
			var cmd *exec.Cmd
			cmd, warning, err := StartApart(Scope{"lxcboot-console-a/b-1", "lxcboot.service"}, func() *exec.Cmd {
				cmd := exec.Command("cat", "/dev/fd/3", "-")
				cmd.ExtraFiles = []*os.File{r}
				cmd.Stdin = r
				return cmd
			})
			must(t, err)
			defer func() { cmd.Process.Kill(); cmd.Wait() }()
			if (warning != nil) != fake.warned {
				t.Errorf("the warning is %v", warning)
			}
			line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", cmd.Process.Pid))
			must(t, err)
			if !strings.HasPrefix(string(line), "cat\x00") && !strings.HasSuffix(strings.Split(string(line), "\x00")[0], "/cat") {
				t.Errorf("the process is %q", line)
			}
			if link, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/3", cmd.Process.Pid)); !strings.HasPrefix(link, "pipe:") {
				t.Errorf("descriptor 3 is %q", link)
			}
			w.Close()
			if fake.warned {
				return
			}
			args, err := os.ReadFile(run + ".args")
			must(t, err)
			for _, want := range []string{"--scope", "--unit=lxcboot-console-a_b-1.scope", "--property=CollectMode=inactive-or-failed", "--property=Before=lxcboot.service"} {
				if !slices.Contains(strings.Split(string(args), "\n"), want) {
					t.Errorf("systemd-run is not given %s:\n%s", want, args)
				}
			}
		})
	}
}

// withoutSystemd makes the test see no systemd, and puts back what it sets.
func withoutSystemd(t *testing.T) {
	dir, limit := systemdDir, scopeLimit
	t.Cleanup(func() { systemdDir, scopeLimit = dir, limit })
	systemdDir = "/nonexistent"
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("waited for %s", what)
			return
		}
	}
}

// A descriptor that the caller left open does not reach the programs that are started.
func TestCloseOnExec(t *testing.T) {
	held, err := os.Open("/")
	must(t, err)
	defer held.Close()
	cmd := exec.Command(os.Args[0], "close-on-exec")
	cmd.ExtraFiles = []*os.File{held, held, held, held, held, held, held} // 3 to 9
	out, err := cmd.Output()
	must(t, err)
	// 3 is what os/exec was told to pass on, 4 ls's own.
	if got := strings.Fields(string(out)); !slices.Equal(got, []string{"0", "1", "2", "3", "4"}) {
		t.Errorf("a program that is started holds %v", got)
	}
}
