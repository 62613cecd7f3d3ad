package cmd

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/instance"
	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// run runs one command line with a state directory of its own, unless args name
// one, and returns what it printed.
func run(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	dir := t.TempDir()
	open := func(name string) *os.File {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	app := &App{In: open("in"), Out: open("out"), Err: open("err")}
	code = app.Run(args)
	read := func(f *os.File) string {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(f)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	return code, read(app.Out), read(app.Err)
}

// clean takes the settings of whoever runs the tests out of their way.
func clean(t *testing.T) string {
	t.Helper()
	for _, s := range settings {
		t.Setenv(s.env, "")
		os.Unsetenv(s.env)
	}
	for _, name := range []string{"LXCBOOT_CONFIG", "OS_AUTH_URL", "OS_CLOUD", "NOVACLIENT_DEFAULT_KEY_NAME"} {
		t.Setenv(name, "")
		os.Unsetenv(name)
	}
	dir := filepath.Join(t.TempDir(), "state")
	t.Setenv("LXCBOOT_STATE_DIR", dir)
	t.Setenv("LXCBOOT_BACKEND", "local")
	return dir
}

func TestBootFlags(t *testing.T) {
	clean(t)
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no flavor":          {[]string{"--image", "i", "n"}, "you need to specify a Flavor ID."},
		"no name":            {[]string{"--flavor", "m1.tiny"}, "the following arguments are required: name"},
		"two names":          {[]string{"--flavor", "m1.tiny", "a", "b"}, "one name is expected"},
		"image-with":         {[]string{"--flavor", "m1.tiny", "--image-with", "foo", "n"}, "'foo' is not in the format of 'key=value'"},
		"max-count 0":        {[]string{"--flavor", "m1.tiny", "--image", "i", "--max-count", "0", "n"}, "max_count should be >= 1"},
		"min above max":      {[]string{"--flavor", "m1.tiny", "--image", "i", "--min-count", "3", "--max-count", "1", "n"}, "min_count should be <= max_count"},
		"meta":               {[]string{"--flavor", "m1.tiny", "--image", "i", "--meta", "foo", "n"}, "'['foo']' is not in the format of 'key=value'"},
		"config-drive":       {[]string{"--flavor", "m1.tiny", "--image", "i", "--config-drive", "/dev/hda", "n"}, "The value of the '--config-drive' option must be a boolean value."},
		"env":                {[]string{"--flavor", "m1.tiny", "--image", "i", "--env", "1A=b", "n"}, `"1A" is not the name of a variable`},
		"file":               {[]string{"--flavor", "m1.tiny", "--image", "i", "--file", "x", "n"}, "not in the form DST=SRC"},
		"user data":          {[]string{"--flavor", "m1.tiny", "--image", "i", "--user-data", "/nonexistent", "n"}, "Can't open '/nonexistent'"},
		"zone":               {[]string{"--flavor", "m1.tiny", "--image", "i", "--availability-zone", "z", "n"}, "--availability-zone has no meaning here"},
		"hint":               {[]string{"--flavor", "m1.tiny", "--image", "i", "--hint", "a=b", "n"}, "there is no scheduler"},
		"nic twice":          {[]string{"--flavor", "m1.tiny", "--image", "i", "--nic", "none", "--nic", "none", "n"}, "cannot be combined"},
		"nic key":            {[]string{"--flavor", "m1.tiny", "--image", "i", "--nic", "brigde=x", "n"}, `unknown key "brigde"`},
		"nic without bridge": {[]string{"--flavor", "m1.tiny", "--image", "i", "--nic", "mac=52:54:00:00:00:01", "n"}, "one of bridge, net-name and net-id"},
		"nic mac":            {[]string{"--flavor", "m1.tiny", "--image", "i", "--nic", "mac=x", "n"}, `the mac "x"`},
		"nic bridge":         {[]string{"--flavor", "m1.tiny", "--image", "i", "--nic", "bridge=nosuchbr0", "n"}, `no bridge "nosuchbr0"`},
		"nic port":           {[]string{"--flavor", "m1.tiny", "--image", "i", "--nic", "port-id=x", "n"}, "belongs to a cloud's network service"},
		"nic address":        {[]string{"--flavor", "m1.tiny", "--image", "i", "--nic", "v4-fixed-ip=10.0.0.256", "n"}, `the address "10.0.0.256"`},
	} {
		code, _, stderr := run(t, append([]string{"boot"}, c.args...)...)
		if code != exitUsage || !strings.Contains(stderr, c.want) {
			t.Errorf("%s: exit code %d, %q lacks %q", name, code, stderr, c.want)
		}
	}
	// A value may hold further '=', and every pair is kept.
	if got, err := keyValues([]string{"foo=bar=pants", "spam=eggs"}); err != nil || got["foo"] != "bar=pants" || got["spam"] != "eggs" {
		t.Errorf("meta: %v, %v", got, err)
	}
}

func TestUsageErrors(t *testing.T) {
	clean(t)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"bot"}, "did you mean boot"},
		{[]string{"image", "imprt"}, `unknown command "imprt"`},
		{[]string{"list", "--nonsense"}, "unknown flag"},
		{[]string{"show"}, "lxcboot show --help"},
		{[]string{"flavor", "list", "-f", "xml"}, `"xml" is not one of table, json, yaml, value`},
		{[]string{"flavor", "list", "-c", "Nonsense"}, "there are ID, Name"},
		{[]string{"flavor", "list", "--backend", "s3"}, `backend "s3"`},
		{[]string{"flavor", "list", "--state-dir", "here"}, "not an absolute path"},
		{[]string{"flavor", "list", "--timeout", "soon"}, `timeout (or LXCBOOT_TIMEOUT): "soon" is not a time`},
		{[]string{"flavor", "list", "--config", "/nonexistent"}, "cannot read the configuration /nonexistent"},
		{[]string{"volume", "create", "v"}, "--size"},
		{[]string{"image", "import", "/nonexistent"}, "cannot read the image file"},
	} {
		code, _, stderr := run(t, c.args...)
		if code != exitUsage || !strings.Contains(stderr, c.want) {
			t.Errorf("%v: exit code %d, %q lacks %q", c.args, code, stderr, c.want)
		}
	}
}

func TestSettings(t *testing.T) {
	clean(t)
	config := filepath.Join(t.TempDir(), "config.yaml")
	write := func(text string) {
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	value := func(args ...string) string {
		app := &App{Out: os.Stdout, Err: os.Stderr}
		root := app.newRootCmd()
		var got string
		probe := &cobra.Command{Use: "probe", RunE: func(*cobra.Command, []string) error {
			got = app.settings.Transport + " " + app.settings.Timeout.String()
			return nil
		}}
		root.AddCommand(probe)
		root.SetArgs(append([]string{"probe", "--config", config}, args...))
		if err := root.Execute(); err != nil {
			return err.Error()
		}
		return got
	}
	write("{}")
	if got := value(); got != "auto 10m0s" {
		t.Errorf("defaults: %s", got)
	}
	write("transport: kernel\ntimeout: 1m\n")
	if got := value(); got != "kernel 1m0s" {
		t.Errorf("the configuration over the defaults: %s", got)
	}
	t.Setenv("LXCBOOT_TRANSPORT", "userspace")
	if got := value(); got != "userspace 1m0s" {
		t.Errorf("the environment over the configuration: %s", got)
	}
	if got := value("--transport", "auto"); got != "auto 1m0s" {
		t.Errorf("a flag over the environment: %s", got)
	}
	write("trnsport: kernel\n")
	if got := value(); !strings.Contains(got, `unknown key "trnsport"`) || !strings.Contains(got, config) {
		t.Errorf("an unknown key: %s", got)
	}
	write("flavors:\n- {name: nano, ram: 64, vcpus: 1}\n")
	if code, out, stderr := run(t, "flavor", "show", "nano", "--config", config, "-f", "value", "-c", "ram"); code != 0 || out != "64\n" {
		t.Errorf("a flavor of the configuration: %d, %q, %s", code, out, stderr)
	}
	write("flavors:\n- {name: nano, ram: 1, vcpus: 1}\n")
	if code, _, stderr := run(t, "flavor", "list", "--config", config); code != exitUsage || !strings.Contains(stderr, `"nano"`) {
		t.Errorf("a wrong flavor: %d, %s", code, stderr)
	}
}

func TestExitCodes(t *testing.T) {
	for want, errs := range map[int][]error{
		exitFailure:     {errors.New("something")},
		exitUsage:       {usagef("x"), instance.ErrInvalid, volume.ErrInvalid},
		exitNotFound:    {instance.ErrNotFound, volume.ErrNotFound, fmt.Errorf("a: %w", lxc.ErrNotFound)},
		exitConflict:    {instance.ErrExists, instance.ErrBusy, instance.ErrState, volume.ErrInUse, &volume.AmbiguousError{}, &volume.StateError{}, volume.ErrQuota},
		exitUnreachable: {lxc.ErrNoDaemon, volume.ErrUnreachable},
		exitUnfit:       {lxc.ErrNoDriver, errNotRoot, volume.ErrAuth, os.ErrPermission},
		exitIncomplete:  {&instance.RollbackError{Instance: "i", Cause: volume.ErrInUse, Undo: errors.New("y")}},
		130:             {&interruptedError{syscall.SIGINT}, fmt.Errorf("cannot boot: %w", &interruptedError{syscall.SIGINT})},
		143:             {&interruptedError{syscall.SIGTERM}},
	} {
		for _, err := range errs {
			if got, _ := classify(err); got != want {
				t.Errorf("%v: exit code %d, want %d", err, got, want)
			}
		}
	}
}

func TestStoreCommands(t *testing.T) {
	clean(t)
	img := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(img, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	must := func(args ...string) string {
		t.Helper()
		code, out, stderr := run(t, args...)
		if code != 0 {
			t.Fatalf("%v: exit code %d: %s", args, code, stderr)
		}
		return strings.TrimSpace(out)
	}
	id := must("image", "import", img, "--name", "zero", "--min-disk", "1", "--property", "os=none", "-f", "value", "-c", "id")
	if got := must("image", "show", "zero", "-f", "value", "-c", "id", "-c", "Properties"); got != id+"\nos='none'" {
		t.Errorf("image show: %q", got)
	}
	vol := must("volume", "create", "--image", "zero", "--size", "1", "v1", "-f", "value", "-c", "id")
	snap := must("snapshot", "create", "s1", "--volume", "v1", "-f", "value", "-c", "id")
	must("volume", "create", "--snapshot", "s1", "--name", "v2")
	must("volume", "create", "--source", vol, "v2")
	if got := must("volume", "extend", "v1", "--size", "2", "-f", "value", "-c", "size"); got != "2" {
		t.Errorf("extended to %s", got)
	}
	var list []map[string]any
	if err := json.Unmarshal([]byte(must("volume", "list", "-f", "json")), &list); err != nil || len(list) != 3 || list[0]["Name"] != "v1" || list[0]["ID"] != vol {
		t.Errorf("volume list: %v, %v", list, err)
	}
	if got := must("snapshot", "list", "-f", "value", "-c", "id", "-c", "name"); got != snap+" s1" {
		t.Errorf("snapshot list: %q", got)
	}
	code, _, stderr := run(t, "volume", "show", "v2")
	if code != exitConflict || !strings.Contains(stderr, "ambiguous") {
		t.Errorf("an ambiguous name: %d, %s", code, stderr)
	}
	if code, _, stderr = run(t, "volume", "create", "--image", "nosuch", "--size", "1"); code != exitNotFound || !strings.Contains(stderr, "nosuch") {
		t.Errorf("an unknown image: %d, %s", code, stderr)
	}
	// One that fails does not keep the others.
	code, _, stderr = run(t, "volume", "delete", "nosuch", "v1")
	if code != exitNotFound || !strings.Contains(stderr, "nosuch") || strings.Contains(must("volume", "list", "-f", "value"), " v1 ") {
		t.Errorf("delete of several: %d, %s", code, stderr)
	}
	must("snapshot", "delete", "s1")
	must("image", "delete", "zero")
}

func TestOutput(t *testing.T) {
	clean(t)
	if _, out, _ := run(t, "flavor", "show", "1"); out != `+-----------+---------+
| Field     | Value   |
+-----------+---------+
| id        | 1       |
| name      | m1.tiny |
| ram       | 512     |
| disk      | 1       |
| ephemeral | 0       |
| vcpus     | 1       |
| swap      | 0       |
+-----------+---------+
` {
		t.Errorf("table:\n%s", out)
	}
	if _, out, _ := run(t, "flavor", "list", "-f", "value", "-c", "name", "-c", "ID"); out != "m1.tiny 1\nm1.small 2\nm1.medium 3\nm1.large 4\nm1.xlarge 5\n" {
		t.Errorf("value: %q", out)
	}
	if _, out, _ := run(t, "flavor", "show", "m1.tiny", "-f", "yaml"); out != "id: \"1\"\nname: m1.tiny\nram: 512\ndisk: 1\nephemeral: 0\nvcpus: 1\nswap: 0\n" {
		t.Errorf("yaml: %q", out)
	}
	var o map[string]any
	if _, out, _ := run(t, "flavor", "show", "m1.tiny", "-f", "json"); json.Unmarshal([]byte(out), &o) != nil || o["ram"] != 512.0 {
		t.Errorf("json: %q", out)
	}
	if got := cell("a\x1b[2Jb\nc\u202ed"); got != `a\x1b[2Jb\nc\u202ed` {
		t.Errorf("a cell that changes the terminal: %q", got)
	}
}

// TestHelp holds that every command says what it is, and can be asked.
func TestHelp(t *testing.T) {
	app := &App{Out: os.Stdout, Err: os.Stderr}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" && !c.Hidden {
			t.Errorf("%s has no description", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(app.newRootCmd())
	if _, out, _ := run(t, "help", "exit-codes"); !strings.Contains(out, "130") {
		t.Errorf("help exit-codes: %q", out)
	}
}

func TestCompletion(t *testing.T) {
	clean(t)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"boot", "--flavor", ""}, "m1.tiny"},
		{[]string{"boot", "--block-device", "sou"}, "source="},
		{[]string{"boot", "--block-device", "source="}, "source=image"},
		{[]string{"boot", "--block-device", "source=image,shut"}, "source=image,shutdown="},
		{[]string{"list", "--format", ""}, "yaml"},
	} {
		if _, out, _ := run(t, append([]string{"__complete"}, c.args...)...); !strings.Contains(out, c.want) {
			t.Errorf("%v: %q lacks %q", c.args, out, c.want)
		}
	}
}
