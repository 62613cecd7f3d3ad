//go:build e2e

package e2e

import (
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/lxcboot/lxcboot/test/host"
)

// silent is a service that takes connections and never answers, at $SILENT.
type silent struct {
	net.Listener
	asked atomic.Int32
}

func listenSilently() (*silent, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	s := &silent{Listener: l}
	if err == nil {
		go func() {
			var open []net.Conn
			for {
				c, err := l.Accept()
				if err != nil {
					break
				}
				s.asked.Add(1)
				open = append(open, c)
			}
			for _, c := range open {
				c.Close()
			}
		}()
	}
	return s, err
}

// unasked: $SILENT was not connected to.
func unasked(ts *testscript.TestScript, neg bool, args []string) {
	if n := ts.Value(holderKey{}).(*holder).silent.asked.Load(); (n == 0) == neg {
		ts.Fatalf("%d connections to $SILENT", n)
	}
}

// serve NAME: what is in $WORK is at the URL $NAME.
func serve(ts *testscript.TestScript, neg bool, args []string) {
	server := httptest.NewServer(http.FileServer(http.Dir(ts.MkAbs("."))))
	ts.Defer(server.Close)
	ts.Setenv(args[0], server.URL)
}

// commands are what scripts can say besides testscript's own commands.
var commands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	// lxcboot ARGS...: as typed. With ! it must fail; use code to say how.
	"lxcboot": func(ts *testscript.TestScript, neg bool, args []string) {
		if err := ts.Exec("lxcboot", args...); (err == nil) == neg {
			ts.Fatalf("lxcboot %s: %v", strings.Join(args, " "), err)
		}
	},
	"code":    code,
	"unasked": unasked,
	"poll":    poll,
	"capture": capture,
	"held":    held,
	"smallfs": smallfs,
	"bridges": bridges,
	"serve":   serve,
	"libvirt": private,
	"tty":     tty,
	"type":    typeIn,
	"expect":  expect,
	"ended":   ended,

	// finally PROGRAM ARGS...: runs at the script's end, after its instances are
	// deleted, however that end comes; the last one first. It may fail.
	"finally": func(ts *testscript.TestScript, neg bool, args []string) {
		h := of(ts)
		h.undo = append(h.undo, func() { exec.Command(args[0], args[1:]...).Run() })
	},

	// nothing: no loop device, mount, domain, process or cgroup of this script.
	"nothing": func(ts *testscript.TestScript, neg bool, args []string) {
		left, err := of(ts).left(15 * time.Second)
		ts.Check(err)
		if len(left) > 0 {
			ts.Fatalf("still there:\n%s", strings.Join(left, "\n"))
		}
	},
}

func of(ts *testscript.TestScript) *holder { return ts.Value(holderKey{}).(*holder) }

// code N[,N...] PROGRAM ARGS...: the program ends with one of the exit codes.
func code(ts *testscript.TestScript, neg bool, args []string) {
	want := strings.Split(args[0], ",")
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		got = exit.ExitCode() // -1: by a signal
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if !slices.Contains(want, strconv.Itoa(got)) {
		ts.Fatalf("%s: exit code %d, not %s", strings.Join(args[1:], " "), got, args[0])
	}
}

// poll PATTERN PROGRAM ARGS...: until the output matches, 30 s at most. What is
// printed last can be looked at with stdout.
func poll(ts *testscript.TestScript, neg bool, args []string) {
	pattern, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	until := time.Now().Add(30 * time.Second)
	for {
		err := ts.Exec(args[1], args[2:]...)
		if err == nil && pattern.MatchString(ts.ReadFile("stdout")) != neg {
			return
		}
		if time.Now().After(until) {
			ts.Fatalf("%s: the output does not become right (%v)", strings.Join(args[1:], " "), err)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// capture VAR PROGRAM ARGS...: what the program prints becomes the variable.
func capture(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(ts.Exec(args[1], args[2:]...))
	value := strings.TrimSpace(ts.ReadFile("stdout"))
	if value == "" {
		ts.Fatalf("%s prints nothing", strings.Join(args[1:], " "))
	}
	ts.Setenv(args[0], value)
}

// held KIND N: the host holds N things of a kind (loop, mount, domain, process, …)
// for this script; libvirt and the kernel get 10 s to come to it.
func held(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[1])
	ts.Check(err)
	h := of(ts)
	until := time.Now().Add(10 * time.Second)
	for {
		state, err := host.Look(context.Background())
		ts.Check(err)
		var lines []string
		for _, line := range host.Compare(h.base, h.pick(state)) {
			if strings.HasPrefix(line, "+ "+args[0]+" ") {
				lines = append(lines, line)
			}
		}
		if len(lines) == want {
			return
		}
		if time.Now().After(until) {
			ts.Fatalf("%d of kind %s, not %d:\n%s", len(lines), args[0], want, strings.Join(lines, "\n"))
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// smallfs SIZE DIR [tmpfs|btrfs]: a filesystem of its own at DIR, ext4 unless it is said, gone at
// the script's end.
func smallfs(ts *testscript.TestScript, neg bool, args []string) {
	h, dir := of(ts), ts.MkAbs(args[1])
	image := filepath.Join(h.work, filepath.Base(dir)+".fs")
	ts.Check(os.MkdirAll(dir, 0o700))
	if slices.Contains(args[2:], "tmpfs") {
		ts.Check(ts.Exec("mount", "-t", "tmpfs", "-o", "size="+args[0], image, dir))
	} else {
		ts.Check(ts.Exec("truncate", "--size", args[0], image))
		mkfs := []string{"mke2fs", "-q", "-t", "ext4", "-m", "0"}
		if slices.Contains(args[2:], "btrfs") {
			mkfs = []string{"mkfs.btrfs", "-q"}
		}
		ts.Check(ts.Exec(mkfs[0], append(mkfs[1:], image)...))
		ts.Check(ts.Exec("mount", "-o", "loop", image, dir))
	}
	h.undo = append(h.undo, func() { exec.Command("umount", dir).Run() })
	h.small = append(h.small, dir)
	state, err := host.Look(context.Background())
	ts.Check(err)
	h.base = append(h.base, slices.DeleteFunc(h.pick(state), func(line string) bool {
		return !strings.Contains(line, image) && !strings.Contains(line, dir+" ")
	})...)
}

// libvirt start|stop DIR: a libvirtd of its own, which the script's lxcboot talks to
// and which ends with the script.
func private(ts *testscript.TestScript, neg bool, args []string) {
	h, dir := of(ts), ts.MkAbs(args[1])
	ts.Check(ts.Exec("private-libvirtd", args[0], dir))
	h.connect = "lxc:///?socket=" + dir + "/sock/libvirt-sock"
	if args[0] == "start" {
		h.undo = append(h.undo, func() { exec.Command("private-libvirtd", "stop", dir).Run() })
	}
}

// bridges: two bridges, $B and $C, of this script alone. $B has the address $NET.1; $NET6 is
// for networks of IPv6, and $MAC a hardware address that nothing has.
func bridges(ts *testscript.TestScript, neg bool, args []string) {
	h := of(ts)
	name := ts.Getenv("N")
	sum := md5.Sum([]byte(name))
	run, number, _ := strings.Cut(name, "-")
	number, _, _ = strings.Cut(number, "-")
	n, err := strconv.Atoi(number)
	ts.Check(err)
	net := fmt.Sprintf("198.18.%d", n%256) // no two scripts of a run have one number
	ts.Setenv("NET", net)
	ts.Setenv("NET6", fmt.Sprintf("1%02x", sum[1]))
	ts.Setenv("MAC", fmt.Sprintf("52:54:%02x:%02x:%02x:%02x", sum[0], sum[1], sum[2], sum[3]))
	for _, v := range []string{"B", "C"} {
		bridge := run + "-" + number + strings.ToLower(v)
		ts.Setenv(v, bridge)
		h.undo = append(h.undo, func() { exec.Command("ip", "link", "delete", bridge).Run() })
		ts.Check(ts.Exec("ip", "link", "add", bridge, "type", "bridge"))
		ts.Check(ts.Exec("ip", "link", "set", bridge, "up"))
	}
	ts.Check(ts.Exec("ip", "address", "add", net+".1/24", "dev", ts.Getenv("B")))
}
