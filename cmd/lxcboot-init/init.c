// The container's first process. libvirt has made the namespaces and mounts, and has
// taken the capabilities away that the container may not have.
#define _GNU_SOURCE
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define HERE "/dev/.lxcboot" // where libvirt mounts the directory with our orders
#define CGROUPS "/sys/fs/cgroup"
#define HOLD_LIMIT 30000 // milliseconds: when nobody ever comes to let us go

#define NOT_EXECUTABLE 126 // as shells have it
#define NOT_FOUND 127

// say says on the console, in a line of its own, what failed.
__attribute__((format(printf, 1, 2))) static void say(const char *format, ...)
{
	int err = errno;
	char line[4096];
	va_list args;

	va_start(args, format);
	vsnprintf(line, sizeof line, format, args);
	va_end(args);
	fprintf(stderr, "lxcboot: %s: %s\n", line, strerror(err));
}

// die is for what the container does not start without.
#define die(code, ...) (say(__VA_ARGS__), _exit(code))

// wait_release waits until the host lets the container go: it removes the FIFO, or its
// end of it is closed, by its death too.
static void wait_release(int hold)
{
	struct pollfd p = { .fd = hold };

	if (hold < 0)
		return;
	while (poll(&p, 1, HOLD_LIMIT) < 0 && errno == EINTR)
		;
	close(hold);
}

// Paths of a cgroup and its mounts, as /proc/self has them.
struct hierarchy {
	char *names, *path;
};

struct group_mount {
	char *root, *at, *type, *options;
};

// has says whether an option is in a list with commas.
static int has(const char *options, const char *option, size_t n)
{
	for (const char *o = options; o; o = strchr(o, ',') ? strchr(o, ',') + 1 : NULL)
		if (!strncmp(o, option, n) && (o[n] == ',' || !o[n]))
			return 1;
	return 0;
}

// shows says whether a mount is of the hierarchy with these names.
static int shows(const struct group_mount *m, const struct hierarchy *h)
{
	if (!*h->names || !strcmp(m->type, "cgroup2"))
		return !*h->names && !strcmp(m->type, "cgroup2");
	return has(m->options, h->names, strcspn(h->names, ","));
}

static int read_hierarchies(struct hierarchy *all, int max)
{
	FILE *f = fopen("/proc/self/cgroup", "re");
	char *line = NULL;
	size_t size = 0;
	int n = 0;

	if (!f)
		return -1;
	while (n < max && getline(&line, &size, f) > 0) {
		line[strcspn(line, "\n")] = 0;
		char *names = strchr(line, ':'), *path = names ? strchr(names + 1, ':') : NULL;
		if (!path)
			continue;
		*path = 0;
		all[n++] = (struct hierarchy){ strdup(names + 1), strdup(path + 1) };
	}
	fclose(f);
	return n;
}

static int read_group_mounts(struct group_mount *all, int max)
{
	FILE *f = fopen("/proc/self/mountinfo", "re");
	char *line = NULL;
	size_t size = 0;
	int n = 0;

	if (!f)
		return -1;
	while (n < max && getline(&line, &size, f) > 0) {
		char *root, *at, *type, *options, *tail = strstr(line, " - ");
		if (!tail || sscanf(line, "%*s %*s %*s %ms %ms", &root, &at) != 2 || sscanf(tail, " - %ms %*s %ms", &type, &options) != 2)
			continue;
		if ((!strcmp(type, "cgroup") || !strcmp(type, "cgroup2")) && !strncmp(at, CGROUPS, strlen(CGROUPS)))
			all[n++] = (struct group_mount){ root, at, type, options };
	}
	fclose(f);
	return n;
}

// join_group joins a group that the host has made in the hierarchy of systemd, which
// libvirt has mounted as a whole. Without it most containers work, and systemd says more.
static void join_group(const struct group_mount *m, const char *group)
{
	char procs[4096];

	snprintf(procs, sizeof procs, "%s/%s/cgroup.procs", m->at, group);
	if (write_file(procs, "0") < 0)
		say("cannot join the control group %s", group);
}

// unmount_groups unmounts what libvirt has mounted. With cgroup v1 that is a mount for
// each hierarchy, on directories of a tmpfs: that is taken away with all that is on it,
// and put back without, as the kernel takes its time for each that is unmounted alone.
static void unmount_groups(const struct group_mount *mounts, int n)
{
	int tree = -1;

	if (n == 0)
		return;
	if (strcmp(mounts[n - 1].at, CGROUPS) && (tree = open_tree(AT_FDCWD, CGROUPS, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)) < 0)
		die(NOT_EXECUTABLE, "cannot copy the mount %s", CGROUPS);
	if (umount2(CGROUPS, MNT_DETACH) < 0)
		die(NOT_EXECUTABLE, "cannot unmount %s", CGROUPS);
	if (tree >= 0 && (move_mount(tree, "", AT_FDCWD, CGROUPS, MOVE_MOUNT_F_EMPTY_PATH) < 0 || close(tree) < 0))
		die(NOT_EXECUTABLE, "cannot mount %s", CGROUPS);
}

// confine_groups hides the host's groups: this process's are the roots of all that it
// sees, and what libvirt has mounted is mounted anew so.
static void confine_groups(const char *group)
{
	static struct hierarchy hierarchies[64];
	static struct group_mount mounts[64];
	int n = read_hierarchies(hierarchies, 64), k = read_group_mounts(mounts, 64);

	if (n < 0 || k < 0)
		die(NOT_EXECUTABLE, "cannot read where its control groups are");
	for (int i = 0; i < k && *group; i++)
		if (has(mounts[i].options, "name=systemd", 12))
			join_group(&mounts[i], group);
	if (unshare(CLONE_NEWCGROUP) < 0)
		die(NOT_EXECUTABLE, "cannot make a namespace of control groups");
	unmount_groups(mounts, k);
	for (int i = 0; i < k; i++)
		for (int j = 0; j < n; j++) {
			const char *names = *hierarchies[j].names ? hierarchies[j].names : NULL;
			if (shows(&mounts[i], &hierarchies[j]) &&
			    mount("cgroup", mounts[i].at, mounts[i].type, MS_NOSUID | MS_NODEV | MS_NOEXEC, names) < 0)
				die(NOT_EXECUTABLE, "cannot mount %s", mounts[i].at);
		}
}

// limit lowers a limit. Nobody in a container can raise it again.
static void limit(int what, rlim_t most)
{
	struct rlimit l;

	if (getrlimit(what, &l) < 0)
		die(NOT_EXECUTABLE, "cannot read its limits");
	if (l.rlim_max > most)
		l.rlim_max = most;
	l.rlim_cur = l.rlim_max;
	if (setrlimit(what, &l) < 0)
		die(NOT_EXECUTABLE, "cannot set its limits");
}

static void set_limits(void)
{
	limit(RLIMIT_CORE, 0);         // a core goes to the host's core_pattern
	limit(RLIMIT_NOFILE, 1048576); // podman's; programs close all up to it
	limit(RLIMIT_NPROC, 16384);    // of each user; a machine's scope under systemd has this
}

static void mask(const char *path)
{
	struct stat st;
	int err;

	if (lstat(path, &st) < 0)
		return;
	if (S_ISDIR(st.st_mode))
		err = mount("tmpfs", path, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "nr_inodes=1,size=4k,mode=555");
	else
		err = mount("/dev/null", path, NULL, MS_BIND, NULL);
	if (err < 0)
		die(NOT_EXECUTABLE, "cannot mask %s", path);
}

static void make_read_only(const char *path)
{
	struct stat st;

	if (lstat(path, &st) < 0)
		return;
	if (mount(path, path, NULL, MS_BIND | MS_REC, NULL) < 0 ||
	    mount(NULL, path, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
		die(NOT_EXECUTABLE, "cannot make %s read-only", path);
}

// mask_host hides what podman hides. libvirt has made /proc/sys and /sys read-only.
static void mask_host(void)
{
	static const char *const masked[] = {
		"/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi",
		"/proc/timer_list", "/proc/timer_stats",
		"/sys/dev/block", "/sys/devices/virtual/powercap", "/sys/firmware", "/sys/fs/selinux",
	};
	static const char *const read_only[] = { "/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sysrq-trigger" };

	for (size_t i = 0; i < sizeof masked / sizeof *masked; i++)
		mask(masked[i]);
	for (size_t i = 0; i < sizeof read_only / sizeof *read_only; i++)
		make_read_only(read_only[i]);
}

void run_init(void)
{
	struct orders o;

	close_range(3, ~0U, 0);
	int fd = open(HERE "/orders", O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read_orders(&o, fd) < 0)
		die(NOT_EXECUTABLE, "cannot read what is to be done");
	close(fd);
	int hold = open(HERE "/hold", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (hold < 0 && errno != ENOENT)
		die(NOT_EXECUTABLE, "cannot open %s", HERE "/hold");
	int privileged = number(&o), filtered = number(&o);
	char *hostname = text(&o), *program = text(&o), **argv = list(&o), **env = list(&o), *group = text(&o);

	// This program runs from there: the mount is gone with its last process.
	if (umount2(HERE, MNT_DETACH) < 0 || rmdir(HERE) < 0)
		die(NOT_EXECUTABLE, "cannot unmount %s", HERE);
	wait_release(hold); // the host puts this process into groups meanwhile
	confine_groups(group);
	if (*hostname && sethostname(hostname, strlen(hostname)) < 0)
		die(NOT_EXECUTABLE, "cannot set the host name %s", hostname);
	set_limits();
	if (!privileged)
		mask_host();
	for (; *env; env++)
		if (putenv(*env))
			die(NOT_EXECUTABLE, "cannot set its environment");
	if (filtered && load_filter() < 0)
		die(NOT_EXECUTABLE, "cannot load the filter of system calls");
	reset_signals();
	execv(program, argv);
	int code = errno == ENOENT ? NOT_FOUND : NOT_EXECUTABLE;
	die(code, "cannot run %s", program);
}
