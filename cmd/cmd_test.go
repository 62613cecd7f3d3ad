package cmd

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/instance"
	"github.com/lxcboot/lxcboot/share"
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
		"config-drive":       {[]string{"--flavor", "m1.tiny", "--image", "i", "--config-drive", "/dev/hda", "n"}, `The value of the '--config-drive' option must be a boolean value. It is "/dev/hda"`},
		"meta names itself":  {[]string{"--flavor", "m1.tiny", "--image", "i", "--meta", "a=1", "--meta", "a=2", "n"}, `--meta "a=2": the key "a" is given twice`},
		"json file":          {[]string{"--flavor", "m1.tiny", "--block-device", "nosuch.json", "n"}, "'nosuch.json' is not a key=value pair, and there is no such file"},
		"json device":        {[]string{"--flavor", "m1.tiny", "--block-device", "/dev/zero", "n"}, "/dev/zero is neither a regular file nor a pipe"},
		"file device":        {[]string{"--flavor", "m1.tiny", "--image", "i", "--file", "/x=/dev/zero", "n"}, "--file /x=/dev/zero: /dev/zero is neither"},
		"user data device":   {[]string{"--flavor", "m1.tiny", "--image", "i", "--user-data", "/dev/zero", "n"}, "Can't open '/dev/zero': /dev/zero is neither"},
		"key device":         {[]string{"--flavor", "m1.tiny", "--image", "i", "--ssh-key", "/dev/zero", "n"}, "--ssh-key: cannot read the ssh key: /dev/zero is neither"},
		"two keys":           {[]string{"--flavor", "m1.tiny", "--image", "i", "--ssh-key", "/dev/null", "--key-name", "k", "n"}, "--key-name and --ssh-key both say"},
		"empty swap":         {[]string{"--flavor", "m1.tiny", "--image", "i", "--swap", "", "n"}, "--swap is empty"},
		"empty hostname":     {[]string{"--flavor", "m1.tiny", "--image", "i", "--hostname=", "n"}, "--hostname is empty"},
		"tag slash":          {[]string{"--flavor", "m1.tiny", "--image", "i", "--tags", "a/b", "n"}, `--tags "a/b": a tag has 1 to 60 characters`},
		"tag twice":          {[]string{"--flavor", "m1.tiny", "--image", "i", "--tags", "a,a", "n"}, `the tag "a" is given twice`},
		"tag empty":          {[]string{"--flavor", "m1.tiny", "--image", "i", "--tags", "a,", "n"}, `"" is none`},
		"max-count":          {[]string{"--flavor", "m1.tiny", "--image", "i", "--max-count", "1000000", "n"}, "max_count should be <= 1000"},
		"first unsupported":  {[]string{"--flavor", "m1.tiny", "--image", "i", "--host", "h", "--hint", "a=b", "--admin-pass", "p", "n"}, "--admin-pass has no meaning"},
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
		"nic path":           {[]string{"--flavor", "m1.tiny", "--image", "i", "--nic", "bridge=../net/lo", "n"}, `no bridge "../net/lo"`},
		"nic address 6":      {[]string{"--flavor", "m1.tiny", "--image", "i", "--nic", "v4-fixed-ip=fd00::7/64", "n"}, `the address "fd00::7/64"`},
		"nic gateway":        {[]string{"--flavor", "m1.tiny", "--image", "i", "--nic", "v4-fixed-ip=10.0.0.7/28,gateway=10.0.0.17", "n"}, `the gateway "10.0.0.17" is not another address in the container's network 10.0.0.0/28`},
		"nic only gateway":   {[]string{"--flavor", "m1.tiny", "--image", "i", "--nic", "gateway=10.0.0.1", "n"}, "give that too, as v4-fixed-ip="},
		"nic address":        {[]string{"--flavor", "m1.tiny", "--image", "i", "--nic", "v4-fixed-ip=10.0.0.256", "n"}, `the address "10.0.0.256"`},
	} {
		code, _, stderr := run(t, append([]string{"boot"}, c.args...)...)
		if code != exitUsage || !strings.Contains(stderr, c.want) {
			t.Errorf("%s: exit code %d, %q lacks %q", name, code, stderr, c.want)
		}
	}
	// A key that was named outranks the one of the environment.
	t.Setenv("NOVACLIENT_DEFAULT_KEY_NAME", "nosuch")
	key := filepath.Join(t.TempDir(), "key.pub")
	if err := os.WriteFile(key, []byte("ssh-ed25519 AAAA me\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, stderr := run(t, "boot", "--flavor", "m1.tiny", "--image", "i", "--ssh-key", key, "--file", "x", "n"); !strings.Contains(stderr, "not in the form DST=SRC") {
		t.Errorf("--ssh-key beside the environment: %q", stderr)
	}
	if _, _, stderr := run(t, "boot", "--flavor", "m1.tiny", "--image", "i", "n"); !strings.Contains(stderr, "--key-name nosuch: cannot read the ssh key") {
		t.Errorf("the environment's key: %q", stderr)
	}
	// A value may hold further '=', and every pair is kept.
	if got, err := keyValues("--meta", []string{"foo=bar=pants", "spam=eggs"}); err != nil || got["foo"] != "bar=pants" || got["spam"] != "eggs" {
		t.Errorf("meta: %v, %v", got, err)
	}
}

// TestBootSpec holds that settings and flags come to what is asked of the container.
func TestBootSpec(t *testing.T) {
	clean(t)
	for seccomp, unfiltered := range map[string]bool{"": false, "on": false, "off": true} {
		t.Setenv("LXCBOOT_SECCOMP", seccomp)
		app := &App{Out: os.Stdout, Err: os.Stderr}
		root, o := app.newRootCmd(), &bootOptions{}
		var req instance.BootRequest
		probe := &cobra.Command{Use: "probe", RunE: func(c *cobra.Command, _ []string) (err error) {
			req, err = app.bootRequest(c.Context(), o, "n")
			return err
		}}
		app.bootFlags(probe, o)
		root.AddCommand(probe)
		root.SetArgs([]string{"probe", "--flavor", "m1.tiny", "--image", "i", "--nic", "none", "--env", "EMPTY=", "--env", "A=b=c", "--init-arg", "", "--init-arg", "a b"})
		if err := root.ExecuteContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		if req.Spec.Unfiltered != unfiltered {
			t.Errorf("seccomp %q: unfiltered %v", seccomp, req.Spec.Unfiltered)
		}
		if empty, ok := req.Spec.Env["EMPTY"]; !ok || empty != "" || req.Spec.Env["A"] != "b=c" || !slices.Equal(req.Spec.InitArgs, []string{"", "a b"}) {
			t.Errorf("environment %q, arguments %q", req.Spec.Env, req.Spec.InitArgs)
		}
	}
}

// TestUnit holds that the host's unit ends the containers before what keeps their volumes and
// consoles goes.
func TestUnit(t *testing.T) {
	unit := share.Text("systemd/lxcboot.service", "/usr/bin/lxcboot")
	for _, line := range []string{"ExecStop=/usr/bin/lxcboot autostart --stop", "ExecStart=/usr/bin/lxcboot autostart", "RemainAfterExit=yes", "KillMode=process"} {
		if !slices.Contains(strings.Split(unit, "\n"), line) {
			t.Errorf("the unit lacks %s", line)
		}
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
		{[]string{"image", "import", ""}, "the FILE is empty"},
		{[]string{"image", "import", "/nonexistent", "--disk-format", ""}, "--disk-format is empty"},
		{[]string{"show", "a", "b"}, `INSTANCE is expected, and "a b" is given`},
		{[]string{"volume", "attach"}, "volume attach: INSTANCE VOLUME is missing"},
		{[]string{"list", "extra"}, `no argument is expected, and there is "extra"`},
		{[]string{"wait", "i"}, "it needs --for"},
		{[]string{"volume", "create", "--image", "a", "--source", "b"}, "only one of --image, --snapshot and --source"},
		{[]string{"volume", "create", "--size", "0"}, "--size 0: a volume has at least 1 GiB"},
		{[]string{"volume", "set", "v"}, "needs --name, --property, --bootable or --no-bootable"},
		{[]string{"logs", "i", "--length", "-1"}, "--length -1"},
		{[]string{"list", "--connect", "qemu:///system"}, `--connect (or LXCBOOT_CONNECT) "qemu:///system"`},
		{[]string{"list", "--timeout", "0s"}, "timeout (or LXCBOOT_TIMEOUT) 0s"},
		{[]string{"list", "--config", "/dev/zero"}, "/dev/zero is neither a regular file nor a pipe"},
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
	for text, want := range map[string]string{
		"volume-group: vg0\n":                         "thin-pool is not",
		"thin-pool: pool\n":                           "volume-group is not",
		"volume-group: vg0/x\nthin-pool: pool\n":      "letters, digits",
		"volume-group: vg0\nthin-pool: --extents=1\n": "letters, digits",
	} {
		write(text)
		if code, _, stderr := run(t, "image", "list", "--config", config); code != exitUsage || !strings.Contains(stderr, want) {
			t.Errorf("%q: %d, %s", text, code, stderr)
		}
	}
	write("volume-group: nothere\nthin-pool: pool\nbackend: local\n")
	if code, _, stderr := run(t, "volume", "create", "--size", "1", "x", "--config", config, "--state-dir", t.TempDir()); code != exitUsage || !strings.Contains(stderr, "there is no volume group nothere") {
		t.Errorf("a group that is not there: %d, %s", code, stderr)
	}
	write("timeout: 1m\n\tbackend: local\n")
	if got := value(); !strings.Contains(got, config+" is not valid YAML: line 2:") {
		t.Errorf("no YAML: %s", got)
	}
	write("flavors:\n- {name: nano, ram: 1, vcpus: 1}\n")
	if code, _, stderr := run(t, "image", "list", "--config", config); code != exitUsage || !strings.Contains(stderr, `"nano"`) {
		t.Errorf("a wrong flavor: %d, %s", code, stderr)
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
	if got := must("image", "show", strings.ToUpper(id), "-f", "value", "-c", "name"); got != "zero" {
		t.Errorf("an id in capitals: %q", got)
	}
	if got := must("volume", "set", vol, "--no-bootable", "--property", "a=b", "--name", "v1", "-f", "value", "-c", "bootable", "-c", "metadata"); got != "false\na='b', lxcboot_grow='yes'" {
		t.Errorf("volume set: %q", got)
	}
	var shown map[string]any
	if err := json.Unmarshal([]byte(must("snapshot", "show", "s1", "-f", "json")), &shown); err != nil || shown["metadata"] == nil || len(shown["created_at"].(string)) != len("2006-01-02T15:04:05Z") {
		t.Errorf("snapshot show: %v, %v", shown, err)
	}
	if list[0]["Attached to"] == nil {
		t.Error("an empty list is null")
	}
	if _, out, _ := run(t, "__complete", "volume", "show", ""); strings.Contains(out, "\nv2\n") || !strings.Contains(out, "\tv2\n") || !strings.Contains(out, "v1\n") {
		t.Errorf("completion of a name that two have: %q", out)
	}
	if _, out, _ := run(t, "__complete", "boot", "--block-device", "source=image,id="); !strings.Contains(out, "source=image,id=zero\n") {
		t.Errorf("completion of an image: %q", out)
	}
	code, _, stderr := run(t, "volume", "show", "v2")
	if code != exitConflict || !strings.Contains(stderr, "ambiguous") {
		t.Errorf("an ambiguous name: %d, %s", code, stderr)
	}
	if code, _, stderr = run(t, "volume", "create", "--image", "nosuch", "--size", "1"); code != exitNotFound || stderr != "lxcboot: image \"nosuch\" not found\nhint: lxcboot image list shows what there is\n" {
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

// TestHostSettings holds that a host is what it is set to be, and that nova boot's own
// --host is no setting.
func TestHostSettings(t *testing.T) {
	clean(t)
	t.Setenv("LXCBOOT_HOST", "shown")
	t.Setenv("LXCBOOT_HOST_ID", "id-1")
	app := &App{Out: os.Stdout, Err: os.Stderr}
	c := app.newRootCmd()
	var words []string
	c.AddCommand(&cobra.Command{Use: "probe", RunE: func(*cobra.Command, []string) (err error) {
		words, err = app.itself()
		return err
	}})
	c.SetArgs([]string{"probe"})
	if err := c.Execute(); err != nil || app.settings.HostName != "shown" || !strings.Contains(strings.Join(words, " "), "--host-id id-1") {
		t.Errorf("%+v, %q, %v", app.settings, words, err)
	}
	if here, err := app.here(); err != nil || here.Name != "shown" || here.ID != "id-1" {
		t.Errorf("it is %+v, %v", here, err)
	}
	boot, _, err := c.Find([]string{"boot"})
	if err != nil || boot.ParseFlags([]string{"--host", "h"}) != nil || app.load(boot) != nil || app.settings.HostName != "shown" {
		t.Errorf("boot --host: %+v, %v", app.settings, err)
	}
	for name, want := range map[string]time.Duration{"run": 20 * time.Second, "stop": time.Minute} {
		of, _, err := c.Find([]string{name})
		if err != nil || of.ParseFlags(nil) != nil || app.load(of) != nil || app.settings.StopTime != want {
			t.Errorf("%s has %v to stop, not %v: %v", name, app.settings.StopTime, want, err)
		}
	}
	t.Setenv("LXCBOOT_STOP_TIMEOUT", "7s")
	of, _, _ := c.Find([]string{"run"})
	if err := app.load(of); err != nil || app.settings.StopTime != 7*time.Second {
		t.Errorf("run has %v to stop: %v", app.settings.StopTime, err)
	}
	if code, _, stderr := run(t, "list", "--host-id", "a b"); code != exitUsage || !strings.Contains(stderr, `host id "a b"`) {
		t.Errorf("a wrong host id: %d, %s", code, stderr)
	}
}

func TestAdoptAsks(t *testing.T) {
	clean(t)
	for want, args := range map[string][]string{"needs the name": {"adopt"}, "or --all": {"adopt", "n", "--all"}, "--yes says yes": {"adopt", "--all"}} {
		if code, _, stderr := run(t, args...); code != exitUsage || !strings.Contains(stderr, want) {
			t.Errorf("%v: exit code %d, %q lacks %q", args, code, stderr, want)
		}
	}
}

// TestStateDir holds that a state directory which is none is told apart from a failure.
func TestStateDir(t *testing.T) {
	clean(t)
	dir := t.TempDir()
	file, open := filepath.Join(dir, "file"), filepath.Join(dir, "open")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Mkdir(open, 0o700), os.Chmod(open, 0o777)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"/dev/null": "--state-dir", "/proc/x": "--state-dir", file: "is no directory", open: "chmod 0700"} {
		for _, command := range []string{"volume", "adopt"} { // which make it
			args := map[string][]string{"volume": {"volume", "create", "v", "--size", "1"}, "adopt": {"adopt", "x"}}[command]
			code, _, stderr := run(t, append(args, "--state-dir", path)...)
			if code != exitUnfit || !strings.Contains(stderr, want) && path != "/proc/x" {
				t.Errorf("%s in %s: exit code %d, %q lacks %q", command, path, code, stderr, want)
			}
		}
	}
	// A diagnosis makes nothing.
	fresh := filepath.Join(dir, "fresh")
	if _, out, _ := run(t, "doctor", "--state-dir", fresh); !strings.Contains(out, "is made when it is needed") {
		t.Errorf("doctor: %s", out)
	}
	if _, err := os.Stat(fresh); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("doctor made %s: %v", fresh, err)
	}
	if _, out, _ := run(t, "doctor", "--state-dir", open, "-f", "value"); !strings.Contains(out, "state directory failed") || !strings.Contains(out, "chmod 0700 "+open) {
		t.Errorf("doctor: %s", out)
	}
}
