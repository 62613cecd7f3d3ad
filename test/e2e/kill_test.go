//go:build e2e

package e2e

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/lxcboot/lxcboot/test/host"
)

// An operation is a command that is killed and interrupted at each point that it
// reaches. What it needs is done before each run; what is compared is the state
// before that. The word NAME stands for the world's instance.
type operation struct {
	name   string
	before [][]string
	args   []string
	// after deletes all that before and the operation may have made.
	after [][]string
	// undone says that an interrupt is answered by undoing: with exit code 130 all
	// is as it was when the operation began.
	undone bool
	// store says that it needs no container.
	store bool
	// quick is how many of its points a quick run takes; 0: all.
	quick int
}

var (
	bootArgs = []string{"boot", "--flavor", "m1.tiny", "--nic", "none",
		"--block-device", rootSpec,
		"--block-device", "source=volume,id=data,dest=volume,shutdown=preserve",
		"--block-device", "source=blank,dest=volume,size=1,shutdown=remove", "NAME"}
	// smallArgs boot from one volume, for what comes after.
	smallArgs  = []string{"boot", "--flavor", "m1.tiny", "--nic", "none", "--block-device", rootSpec, "NAME"}
	deleteName = []string{"delete", "NAME"}
	deleteMade = []string{"volume", "delete", "made"}
	attachData = []string{"volume", "attach", "NAME", "data"}
	detachData = []string{"volume", "detach", "NAME", "data"}
	// Read-only, or the volume would not be as before.
	mountShelf   = []string{"volume", "attach", "--read-only", "--mount", "/srv/shelf", "NAME", "shelf"}
	importQcow2  = []string{"image", "import", "QCOW2", "--name", "imported"}
	deleteImport = []string{"image", "delete", "imported"}

	operations = []operation{
		{name: "boot", args: bootArgs, after: [][]string{deleteName}, undone: true},
		{name: "delete", before: [][]string{bootArgs}, args: deleteName, after: [][]string{deleteName}},
		{name: "stop", before: [][]string{bootArgs}, args: []string{"stop", "NAME"}, after: [][]string{deleteName}},
		{name: "start", before: [][]string{bootArgs, {"stop", "--force", "NAME"}}, args: []string{"start", "NAME"}, after: [][]string{deleteName}, undone: true},
		// stop and start in one.
		{name: "reboot", before: [][]string{bootArgs}, args: []string{"reboot", "NAME"}, after: [][]string{deleteName}, quick: 8},
		{name: "attach", before: [][]string{smallArgs}, args: attachData, after: [][]string{deleteName}, undone: true},
		{name: "detach", before: [][]string{smallArgs, attachData}, args: detachData, after: [][]string{deleteName}},
		{name: "attach-mounted", before: [][]string{smallArgs}, args: mountShelf, after: [][]string{deleteName}, undone: true},
		{name: "detach-mounted", before: [][]string{smallArgs, mountShelf}, args: []string{"volume", "detach", "NAME", "shelf"}, after: [][]string{deleteName}},
		{name: "rename", before: [][]string{smallArgs, {"stop", "--force", "NAME"}}, args: []string{"rename", "NAME", "NAME-b"}, after: [][]string{deleteName, {"delete", "NAME-b"}}},
		{name: "resize", before: [][]string{smallArgs}, args: []string{"resize", "NAME", "--flavor", "m1.small"}, after: [][]string{deleteName}},
		{name: "import-raw", store: true, args: []string{"image", "import", "IMAGE", "--name", "imported"}, after: [][]string{deleteImport}, undone: true},
		{name: "import-qcow2", store: true, args: importQcow2, after: [][]string{deleteImport}, undone: true},
		{name: "image-delete", store: true, before: [][]string{importQcow2}, args: deleteImport, after: [][]string{deleteImport}},
		{name: "image-create", store: true, args: []string{"image", "create", "imported", "--volume", "data"}, after: [][]string{deleteImport}, undone: true},
		{name: "image-prune", store: true, before: [][]string{importQcow2, {"volume", "create", "--image", "imported", "--size", "1", "made"}}, args: []string{"image", "cache", "prune"}, after: [][]string{deleteMade, deleteImport}},
		{name: "volume-blank", store: true, args: []string{"volume", "create", "--size", "1", "made"}, after: [][]string{deleteMade}, undone: true},
		{name: "volume-image", store: true, args: []string{"volume", "create", "--image", "busybox", "--size", "1", "made"}, after: [][]string{deleteMade}, undone: true},
		{name: "volume-qcow2", store: true, before: [][]string{importQcow2}, args: []string{"volume", "create", "--image", "imported", "--size", "1", "made"}, after: [][]string{deleteMade, deleteImport}, undone: true},
		{name: "volume-snapshot", store: true, before: [][]string{{"snapshot", "create", "--volume", "data", "snap"}}, args: []string{"volume", "create", "--snapshot", "snap", "made"}, after: [][]string{deleteMade, {"snapshot", "delete", "snap"}}, undone: true},
		{name: "volume-copy", store: true, args: []string{"volume", "create", "--source", "data", "made"}, after: [][]string{deleteMade}, undone: true},
		{name: "volume-extend", store: true, before: [][]string{{"volume", "create", "--size", "1", "made"}}, args: []string{"volume", "extend", "made", "--size", "2"}, after: [][]string{deleteMade}, undone: true},
		{name: "volume-delete", store: true, before: [][]string{{"volume", "create", "--size", "1", "made"}}, args: deleteMade, after: [][]string{deleteMade}},
		{name: "snapshot", store: true, args: []string{"snapshot", "create", "--volume", "data", "snap"}, after: [][]string{{"snapshot", "delete", "snap"}}, undone: true},
		{name: "snapshot-delete", store: true, before: [][]string{{"snapshot", "create", "--volume", "data", "snap"}}, args: []string{"snapshot", "delete", "snap"}, after: [][]string{{"snapshot", "delete", "snap"}}},
	}
)

// hidden are the store's directories while an object is made or deleted, a record that
// was not put in its place, and an instance's directory, its name and its host ids before
// it has a record and after it had one.
var hidden = regexp.MustCompile(`^\+ /((images|volumes|snapshots)/(\.(new|old)-|[0-9a-f-]{36}/\.meta\.json)|instances/[0-9a-f-]{36}(/(lock|claim|console\.log|seed\.json|\.(record|seed)\.json-[0-9]+))? |(names|host-ids)/[^/]+ )`)

// everywhere lets each operation run to each of its points; in a quick run to as many
// as the operation says, or to one in oneIn and at least two.
func everywhere(t *testing.T, prefix, what string, oneIn int, do func(w *world, op operation, point string)) {
	t.Parallel()
	count := newTally(t, what)
	all := func(t *testing.T, w *world, op operation) {
		w.t = t
		points, quick := w.points(op), op.quick
		if oneIn > 1 {
			quick = max(2, len(points)/oneIn)
		}
		for _, point := range share(points, quick) {
			t.Run(point, func(t *testing.T) {
				w.t = t
				count.fault()
				do(w, op, point)
			})
		}
		if op.store {
			w.t = t
			w.host()
		}
	}
	for _, op := range operations {
		if !op.store {
			t.Run(op.name, func(t *testing.T) {
				t.Parallel()
				all(t, newWorld(t, prefix+"-"+op.name, count), op)
			})
		}
	}
	t.Run("store", func(t *testing.T) {
		t.Parallel()
		w := newStoreWorld(t, prefix+"-objects", count)
		for _, op := range operations {
			if op.store {
				t.Run(op.name, func(t *testing.T) { all(t, w, op) })
			}
		}
	})
}

// TestKillAnywhere kills lxcboot with SIGKILL at every point between two effects,
// then deletes what was worked on: host and store are exactly as before. What an
// object of the store that was half made leaves is removed by repair.
func TestKillAnywhere(t *testing.T) {
	everywhere(t, "kill", "kills, each followed by delete", 1, func(w *world, op operation, point string) {
		w.setUp(op)
		w.kill(point, op.args...)
		w.tidy(op)
		w.asBefore()
	})
}

// TestInterruptAnywhere sends SIGINT at every point. What is interrupted and says so
// has undone everything by itself, where that is promised; what was too far on to be
// interrupted is whole.
func TestInterruptAnywhere(t *testing.T) {
	everywhere(t, "int", "interrupts", 2, func(w *world, op operation, point string) {
		w.setUp(op)
		was := w.view(op)
		switch code, out := w.faulty(point+"=int", op.args...); {
		case code == 130 && op.undone:
			if now := w.view(op); now != was {
				w.t.Errorf("interrupted, and not undone:\n%s\nbefore it was\n%s", now, was)
			}
		case code != 130 && code != 0:
			w.t.Errorf("exit code %d\n%s", code, out)
		}
		w.tidy(op)
		w.asBefore()
	})
}

// TestRepairAnywhere kills at every point, and lets repair mend it: it says what it
// does, does it once, and what is there after it works.
func TestRepairAnywhere(t *testing.T) {
	everywhere(t, "repair", "kills, each followed by repair", 8, func(w *world, op operation, point string) {
		w.setUp(op)
		w.kill(point, op.args...)
		was := w.names()
		code, out := w.run("repair")
		refused := code == 4 && strings.Contains(out, "its container runs")
		switch {
		case refused && op.name == "boot":
		case code != 0:
			w.t.Errorf("repair: exit code %d\n%s", code, out)
		case out == "" && !slices.Equal(was, w.names()):
			w.t.Errorf("repair changed this and said nothing:\n%s", strings.Join(host.Compare(was, w.names()), "\n"))
		default:
			if code, out := w.run("repair"); code != 0 || out != "" {
				w.t.Errorf("repair a second time: exit code %d\n%s", code, out)
			}
			w.works()
		}
		w.tidy(op)
		w.asBefore()
	})
}

// A verb is what can be typed of an instance, with the exit codes that there may be
// after an attach or a detach of the volume "data" was killed: while its container runs,
// and while it does not.
type verb struct {
	name             string
	args             []string
	running, stopped []int
	ends             bool // the container may end
}

var verbs = []verb{
	{name: "start", args: []string{"start", "NAME"}, running: []int{4}, stopped: []int{0}},
	{name: "stop", args: []string{"stop", "--force", "NAME"}, running: []int{0}, stopped: []int{4}, ends: true},
	{name: "reboot", args: []string{"reboot", "--hard", "NAME"}, running: []int{0}, stopped: []int{0}, ends: true},
	// The kill may have come when it was whole already.
	{name: "attach", args: attachData, running: []int{0, 4}, stopped: []int{0, 4}},
	{name: "detach", args: detachData, running: []int{0, 3}, stopped: []int{0, 3}},
	{name: "rename", args: []string{"rename", "NAME", "NAME-b"}, running: []int{4}, stopped: []int{0}},
	{name: "set", args: []string{"set", "NAME", "--description", "another"}, running: []int{0}, stopped: []int{0}},
	{name: "delete", args: deleteName, running: []int{0}, stopped: []int{0}, ends: true},
	{name: "repair", args: []string{"repair"}, running: []int{0}, stopped: []int{0}},
	{name: "autostart", args: []string{"autostart"}, running: []int{0}, stopped: []int{0}},
}

// TestVerbsAnywhere kills attach and detach at every point, of a running and of a
// stopped instance: then each verb works, no container ends by one that does not end it,
// and afterwards the instance can be stopped, started, given the volume and deleted. A
// quick run tries each point with one verb, and each verb at some points.
func TestVerbsAnywhere(t *testing.T) {
	t.Parallel()
	count := newTally(t, "kills of attach and detach, each followed by every verb in turn")
	stop := []string{"stop", "--force", "NAME"}
	for _, name := range []string{"attach", "detach"} {
		for _, running := range []bool{true, false} {
			op := operations[slices.IndexFunc(operations, func(o operation) bool { return o.name == name })]
			op.after = [][]string{{"delete", "--force", "NAME", "NAME-b"}}
			if !running {
				op.name += "-stopped"
				op.before = append(slices.Clone(op.before), stop)
			}
			t.Run(op.name, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, "verbs-"+op.name, count)
				for i, point := range w.points(op) {
					for j, v := range verbs {
						if torture == 0 && i%len(verbs) != j {
							continue
						}
						t.Run(v.name+" after "+point, func(t *testing.T) {
							w.t = t
							count.fault()
							w.setUp(op)
							w.kill(point, op.args...)
							w.verb(v, running)
							w.tidy(op)
							w.asBefore()
						})
					}
				}
			})
		}
	}
}

// verb does what was typed after a kill, and then all else that can be done.
func (w *world) verb(v verb, running bool) {
	w.t.Helper()
	init := func() string { return w.must("show", "NAME", "-f", "value", "-c", "init_pid") }
	was, codes := init(), v.stopped
	if running {
		codes = v.running
	}
	code, out := w.run(v.args...)
	if !slices.Contains(codes, code) {
		w.t.Errorf("exit code %d\n%s", code, out)
	}
	if v.name == "delete" {
		return
	}
	if v.name == "rename" && code == 0 {
		w.must("rename", "NAME-b", "NAME")
	}
	if now := init(); running && !v.ends && now != was {
		w.t.Errorf("the container's init was %s, and is %s", was, now)
	}
	has := func(status string) {
		if now := w.must("volume", "show", "data", "-f", "value", "-c", "status"); strings.TrimSpace(now) != status {
			w.t.Errorf("the volume is %s, and not %s", strings.TrimSpace(now), status)
		}
	}
	switch v.name {
	case "attach":
		has("in-use")
	case "detach":
		has("available")
	}
	for _, step := range []struct {
		args []string
		may  int // exit code, besides 0
	}{
		{args: []string{"stop", "--force", "NAME"}, may: 4},
		{args: []string{"start", "NAME"}},
		{args: attachData, may: 4},
		{args: []string{"exec", "NAME", "--", "dd", "if=/dev/vdb", "of=/dev/null", "bs=4096", "count=1"}},
		{args: detachData},
	} {
		code, out := w.run(step.args...)
		if code == 4 && strings.Contains(out, "lxcboot reboot the instance") { // libvirt missed its start
			w.t.Logf("as told, after %s:\n%s", strings.Join(step.args, " "), out)
			w.must("reboot", "--hard", "NAME")
			code, out = w.run(step.args...)
		}
		if code != 0 && code != step.may {
			w.t.Errorf("then %s: exit code %d\n%s", strings.Join(step.args, " "), code, out)
		}
	}
	has("available")
}

// TestKillTwice kills boot at a point, and then the delete that cleans up after it at
// each of its own points. A quick run takes a few points of boot, and each point of
// delete once, after the one of those that had the fewest so far.
func TestKillTwice(t *testing.T) {
	t.Parallel()
	count := newTally(t, "kills of boot, each with a second one of delete")
	lanes := 1
	if torture > 0 {
		lanes = 2
	}
	op := operations[0]
	for lane := range lanes {
		t.Run(fmt.Sprint(lane), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, fmt.Sprint("twice-", lane), count)
			var firsts []string
			for i, point := range share(w.points(op), 10) {
				if i%lanes == lane {
					firsts = append(firsts, point)
				}
			}
			for _, pair := range w.pairs(op, firsts) {
				t.Run(pair[0]+" and "+pair[1], func(t *testing.T) {
					w.t = t
					w.kill(pair[0], op.args...)
					switch code, out := w.faulty(pair[1]+"=kill", deleteName...); code {
					case -int(syscall.SIGKILL):
						count.fault()
					case 0: // Volumes are filled beside the boot: it had not come as far this time.
					default:
						t.Errorf("the delete that is to be killed at %s ends with exit code %d\n%s", pair[1], code, out)
					}
					w.tidy(op)
					w.asBefore()
				})
			}
		})
	}
}

// pairs are the points of a boot with those that the delete after it reaches.
func (w *world) pairs(op operation, firsts []string) (pairs [][2]string) {
	used := map[string]int{}
	reach := map[string][]string{} // the points of boot from which delete reaches a point
	var seconds []string
	for _, first := range firsts {
		w.kill(first, op.args...)
		for _, second := range w.logged(deleteName...) {
			if reach[second] == nil {
				seconds = append(seconds, second)
			}
			reach[second] = append(reach[second], first)
			if torture > 0 {
				pairs = append(pairs, [2]string{first, second})
			}
		}
		w.asBefore()
	}
	if torture > 0 {
		return share(pairs, len(seconds))
	}
	for _, second := range seconds {
		first := slices.MinFunc(reach[second], func(a, b string) int { return used[a] - used[b] })
		used[first]++
		pairs = append(pairs, [2]string{first, second})
	}
	return pairs
}
