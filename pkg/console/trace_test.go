package console

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/lxcboot/lxcboot/pkg/tty"
)

// relay is libvirt_lxc at its slowest, in Perl, as Go begins threads of its own accord: it
// has what it read of the terminal inside, whose master it is given, for a while in hand
// before it writes that to the one on the host, and ends as soon as it is told of its
// init's end. The init runs a script on the terminal.
const relay = `use POSIX;
$SIG{CHLD} = sub { POSIX::_exit(0) };
open(my $inner, "<&=", 3); open(my $host, ">&=", 4); open(my $terminal, "+<&=", 5);
my $init = fork;
if (!$init) {
	POSIX::setsid();
	ioctl($terminal, 0x540e, 0) or die; # TIOCSCTTY
	POSIX::dup2(5, $_) for 0..2;
	exec("busybox", "sh", "-c", $ARGV[0]);
}
close($terminal);
syswrite(STDOUT, "$init\n");
while (1) {
	my $n = sysread($inner, my $buf, 700);
	select(undef, undef, undef, $n ? 0.1 : 0.01); # none: nobody has the terminal for now
	syswrite($host, $buf) if $n;
}`

// newRelay is a world whose controller is a relay, from when its init waits for goOn.
func newRelay(t *testing.T, script string) (w *world, init int) {
	t.Helper()
	w = newOptions(t)
	inner, terminal, err := pty.Open()
	must(t, err)
	defer terminal.Close()
	master, slave, err := pty.Open()
	must(t, err)
	_, err = term.MakeRaw(int(slave.Fd()))
	must(t, err)
	w.controller = exec.Command("perl", "-e", relay, "read line <"+w.dir+"/go; "+script)
	w.controller.ExtraFiles = []*os.File{inner, master, terminal}
	w.controller.Stderr = os.Stderr
	out, err := w.controller.StdoutPipe()
	must(t, err)
	must(t, w.controller.Start())
	t.Cleanup(func() { w.controller.Process.Kill(); w.controller.Wait() })
	_, err = fmt.Fscanln(out, &init)
	must(t, err)
	pidfd, err := unix.PidfdOpen(w.controller.Process.Pid, 0)
	must(t, err)
	w.terminal = &Terminal{Ends: tty.Ends{Host: slave, Master: master, Inner: inner}, pid: w.controller.Process.Pid, controller: os.NewFile(uintptr(pidfd), "pidfd")}
	t.Cleanup(w.terminal.Close)
	return w, init
}

// status says whether a field of a process's status is one of those.
func (w *world) status(field string, is func(value string) bool) bool {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.controller.Process.Pid))
	_, rest, _ := bytes.Cut(data, []byte("\n"+field+":\t"))
	value, _, found := bytes.Cut(rest, []byte("\n"))
	return found && is(string(value))
}

func (w *world) traced() bool { return w.status("TracerPid", func(v string) bool { return v != "0" }) }

// What a container says last is in the log to the last byte, whatever libvirt_lxc has of
// it in hand when the init ends, however the terminal was left, and also when the process
// that keeps the console is killed and replaced, or comes late.
func TestLastWords(t *testing.T) {
	var want strings.Builder
	for i := range 900 {
		fmt.Fprintln(&want, "line", i)
	}
	for name, tt := range map[string]struct {
		before string // what the init does first
		keeper func(t *testing.T, w *world)
	}{
		"at once": {"", func(t *testing.T, w *world) { w.start(t); w.goOn(t) }},
		"odd terminal": {"busybox stty olcuc ixon ocrnl tostop;", func(t *testing.T, w *world) {
			w.start(t)
			w.goOn(t)
		}},
		"late": {"", func(t *testing.T, w *world) {
			w.goOn(t)
			eventually(t, "the news of the end to wait", func() bool {
				return w.status("ShdPnd", func(v string) bool { return strings.HasSuffix(v, "10000") })
			})
			w.start(t)
		}},
		"killed": {"", func(t *testing.T, w *world) {
			w.start(t)
			eventually(t, "the keeper", w.traced)
			must(t, unix.Kill(w.process.PID, unix.SIGKILL))
			eventually(t, "the keeper's end", func() bool { return !w.process.Alive() && !w.traced() })
			w.start(t)
			eventually(t, "the next keeper", w.traced)
			w.goOn(t)
		}},
		"stopped": {"", func(t *testing.T, w *world) {
			w.start(t)
			eventually(t, "the keeper", w.traced)
			must(t, unix.Kill(w.controller.Process.Pid, unix.SIGSTOP))
			// The tracer stops it, too, for a moment. Its own stop is no longer to come then.
			eventually(t, "the stop", func() bool {
				return w.status("State", func(v string) bool { return strings.HasPrefix(v, "T") || strings.HasPrefix(v, "t") }) &&
					w.status("ShdPnd", func(v string) bool { return strings.Trim(v, "0") == "" })
			})
			w.goOn(t)
			eventually(t, "the init's end", func() bool { return w.status("ShdPnd", func(v string) bool { return strings.HasSuffix(v, "10000") }) })
			must(t, unix.Kill(w.controller.Process.Pid, unix.SIGCONT))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, init := newRelay(t, tt.before+"i=0; while [ $i -lt 900 ]; do echo line $i; i=$((i+1)); done; exit 5")
			must(t, w.terminal.HoldInit(init))
			tt.keeper(t, w)
			if args := w.ended(t); args != "--status 1280" {
				t.Errorf("%q is handed on", args)
			}
			got := strings.ReplaceAll(w.log(t), "\r", "")
			if name == "odd terminal" {
				got = strings.ToLower(got)
			}
			if got != want.String() {
				t.Errorf("of %d bytes there are %d; the last are %q", want.Len(), len(got), got[max(0, len(got)-40):])
			}
		})
	}
}

// Who takes hold of a terminal and starts no process for it leaves the controller as it
// was.
func TestUnblocked(t *testing.T) {
	w, init := newRelay(t, "exit 0")
	must(t, w.terminal.HoldInit(init))
	blocked := func() bool {
		return w.status("SigBlk", func(v string) bool {
			mask, err := strconv.ParseUint(v, 16, 64)
			return err == nil && mask>>(unix.SIGCHLD-1)&1 == 1
		})
	}
	if !blocked() {
		t.Error("the news of the end is not held back")
	}
	w.terminal.Close()
	if blocked() || w.traced() {
		t.Error("the news of the end is still held back")
	}
	w.goOn(t)
	must(t, w.controller.Wait())
}

// The mark is taken out wherever what comes is cut, and nothing else.
func TestMark(t *testing.T) {
	const text = "aabaac"
	for in, want := range map[string]string{
		"":                     "",
		"x":                    "x",
		"aabaa":                "aabaa",
		"aabaaaabaac":          "aabaa",
		"some words" + text:    "some words",
		text:                   "",
		text + "and then more": "and then more",
		"aaabaab":              "aaabaab",
	} {
		for n := 1; n <= len(in)+1; n++ {
			m := &mark{text: []byte(text), through: make(chan struct{})}
			var got bytes.Buffer
			r := bytes.NewReader([]byte(in))
			for {
				p, err := io.ReadAll(io.LimitReader(r, int64(n)))
				if len(p) == 0 || err != nil {
					break
				}
				got.Write(m.cut(p))
			}
			got.Write(m.rest())
			if got.String() != want {
				t.Errorf("%q in pieces of %d: %q instead of %q", in, n, &got, want)
			}
		}
	}
}
