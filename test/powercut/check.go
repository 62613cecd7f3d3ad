package powercut

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Shell runs a shell script where the state directory is that is looked at, and gives what
// it printed.
type Shell func(script string) (string, error)

// thing is an image, volume, snapshot or instance, as far as the work has told.
type thing struct {
	kind, name string
	begun      bool   // something was begun with it that was not reported done
	there      bool   // as was reported last; when begun, either may be
	sum        string // of what it begins with
	sizes      []int  // in GiB, one of them
	up         bool   // an instance that runs
	unsure     bool   // whether it is up, or who has it, is being changed
	said       string // what a program in it had flushed
	heldBy     string // the instance that has the volume
}

// things reads what was said.
func things(said []string) map[string]*thing {
	all := map[string]*thing{}
	for _, line := range said {
		f := strings.Fields(line)
		done, verb, name, fact := f[0] == "done", f[1], f[2], f[3]
		t := all[name]
		if t == nil {
			t = &thing{kind: verb, name: name, sizes: []int{1}}
			all[name] = t
		}
		switch {
		case verb == t.kind:
			t.begun, t.there, t.sum, t.up = !done, done, fact, done
		case strings.HasPrefix(verb, "no-"):
			t.begun, t.there = !done, !done
		case verb == "grow":
			if t.sizes = append(t.sizes, 2); done {
				t.sizes = []int{2}
			}
		case verb == "write" && done:
			t.said = fact
		case verb == "attach" || verb == "detach":
			if t.unsure = !done; done {
				t.heldBy = map[string]string{"attach": fact}[verb]
			}
		case verb == "start" || verb == "stop":
			if t.unsure = !done; done {
				t.up = verb == "start"
			}
		}
	}
	return all
}

// object is a row of one of lxcboot's lists.
type object struct {
	ID, Name, Status string
	Size             int
	AttachedTo       []string `json:"Attached to"`
}

// kinds of things, in the order in which they can be deleted, with the command's words.
var kinds = []struct{ name, list, remove string }{
	{"instance", "list --all", "delete"},
	{"snapshot", "snapshot list", "snapshot delete"},
	{"volume", "volume list", "volume delete"},
	{"image", "image list", "image delete"},
}

// checker collects what is wrong.
type checker struct {
	sh    Shell
	wrong []string
}

func (c *checker) say(format string, args ...any) {
	c.wrong = append(c.wrong, fmt.Sprintf(format, args...))
}

// must runs a script that has to succeed.
func (c *checker) must(script string) string {
	out, err := c.sh("set -eu\nSTATE=${LXCBOOT_STATE_DIR:-/var/lib/lxcboot}\n" + script)
	if err != nil {
		c.say("%s\n%v: %s", script, err, out)
	}
	return out
}

// lists are all that lxcboot knows, by kind.
func (c *checker) lists() map[string][]object {
	all := map[string][]object{}
	for _, k := range kinds {
		// A warning would not be JSON.
		out := c.must("lxcboot " + k.list + " -f json 2>&1")
		var rows []object
		if err := json.Unmarshal([]byte(out), &rows); err != nil {
			c.say("lxcboot %s says: %s", k.list, out)
		}
		all[k.name] = rows
	}
	return all
}

// Check holds a state directory whose power went against what had been said, and says
// what is wrong. It repairs it first. back: this is the host whose power went, and the
// containers that ran do so again; another's libvirt does not know them.
func Check(sh Shell, said []string, back bool) (wrong []string) {
	c := &checker{sh: sh}
	c.lists() // each record can be read as it was left
	expected := things(said)
	out, err := c.sh("lxcboot repair")
	starts := func(t *thing) bool { return t.kind == "instance" && t.unsure }
	switch again, err2 := c.sh("lxcboot repair"); {
	case !back && slices.ContainsFunc(slices.Collect(maps.Values(expected)), starts):
		// It goes on with a start, for which libvirt would have to see this disk.
	case err != nil || err2 != nil:
		c.say("repair: %v: %s\na second time: %v: %s", err, out, err2, again)
	case again != "":
		c.say("repair has something to do a second time: %s", again)
	}
	all := c.lists()
	has := c.contents()
	for _, name := range slices.Sorted(maps.Keys(expected)) {
		c.hold(expected[name], all, has, back)
	}
	for _, v := range all["volume"] {
		for _, id := range v.AttachedTo {
			if !slices.ContainsFunc(all["instance"], func(o object) bool { return o.ID == id }) {
				c.say("the volume %s is attached to %s, which there is not", v.Name, id)
			}
		}
		// Of a boot, which has said that it goes with the instance.
		if instance, root := strings.CutSuffix(v.Name, "-image"); root && expected[instance] != nil && len(v.AttachedTo) == 0 {
			c.say("the volume %s is left of an instance", v.Name)
		}
	}
	return c.wrong
}

// contents are the checksums of what images, volumes and snapshots begin with, by id.
func (c *checker) contents() map[string]string {
	has := map[string]string{}
	out := c.must(`cd "$STATE"
for data in images/*/data volumes/*/data snapshots/*/data; do
  [ ! -e $data ] || echo "$(basename $(dirname $data)) $(head -c 3M $data | sha256sum)"
done`)
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) == 3 {
			has[f[0]] = f[1]
		}
	}
	return has
}

// hold holds one thing against what there is.
func (c *checker) hold(t *thing, all map[string][]object, has map[string]string, back bool) {
	i := slices.IndexFunc(all[t.kind], func(o object) bool { return o.Name == t.name })
	switch {
	case i < 0 && t.there && !t.begun:
		c.say("the %s %s is gone", t.kind, t.name)
	case i >= 0 && !t.there && !t.begun:
		c.say("the %s %s is back", t.kind, t.name)
	}
	if i < 0 {
		return
	}
	o := all[t.kind][i]
	if t.kind == "instance" {
		c.holdInstance(t, o, back)
		return
	}
	switch o.Status {
	case "available", "active", "in-use":
		if has[o.ID] != t.sum {
			c.say("the %s %s is %s and has another content than it was made with", t.kind, t.name, o.Status)
		}
	default:
		if !t.begun {
			c.say("the %s %s is %s", t.kind, t.name, o.Status)
		}
	}
	if t.kind != "volume" || t.begun {
		return
	}
	if !slices.Contains(t.sizes, o.Size) {
		c.say("the volume %s has %d GiB instead of %v", t.name, o.Size, t.sizes)
	}
	if held := len(o.AttachedTo) > 0; !t.unsure && held != (t.heldBy != "") {
		c.say("the volume %s is attached to %q, and should be to %q", t.name, o.AttachedTo, t.heldBy)
	}
}

func (c *checker) holdInstance(t *thing, o object, back bool) {
	want := "SHUTOFF"
	if t.up {
		want = "ACTIVE"
	}
	if back && o.Status != want && !t.unsure && !t.begun {
		c.say("the instance %s is %s instead of %s", t.name, o.Status, want)
	}
	if t.said == "" || t.begun {
		return
	}
	read := fmt.Sprintf(`v=$(lxcboot show %s -f json | sed -n 's/.*"volume_id": "\(.*\)".*/\1/p' | head -n 1)
at=$(mktemp -d); mount -o loop $STATE/volumes/$v/data $at; cat $at/said; umount $at; rmdir $at`, t.name)
	if o.Status == "ACTIVE" {
		read = fmt.Sprintf("lxcboot exec %s -- cat /said", t.name)
	}
	if got := strings.TrimSpace(c.must(read)); got != t.said {
		c.say("a program in %s had flushed %s, and there is %s", t.name, t.said, got)
	}
}

// Remove deletes all whose name begins with a prefix, and says what cannot be. With an empty
// prefix nothing may be left of the state directory but what the first start makes.
func Remove(sh Shell, prefix string) (wrong []string) {
	c := &checker{sh: sh}
	for _, k := range kinds {
		for _, o := range c.lists()[k.name] {
			if strings.HasPrefix(o.Name, prefix) {
				c.must(fmt.Sprintf("lxcboot %s -q %s", k.remove, o.ID))
			}
		}
	}
	c.must("lxcboot repair")
	if prefix == "" {
		if left := c.must("cd $STATE; find . -mindepth 2 ! -path ./instances/lock"); left != "" {
			c.say("left in the state directory:\n%s", left)
		}
	}
	return c.wrong
}
