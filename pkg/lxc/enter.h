#ifndef LXCBOOT_ENTER_H
#define LXCBOOT_ENTER_H

#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

#define ENTER_RLIMITS 16

// What went wrong, in the order of the steps.
enum { ENTER_PID, ENTER_CGROUP, ENTER_LABEL, ENTER_NAMESPACES, ENTER_CAPABILITIES,
	ENTER_FORK, ENTER_TERMINAL, ENTER_USER, ENTER_DIRECTORY, ENTER_PROGRAM };

// A message on the report pipe: first ENTER_PID with the program's process id, then
// nothing or the step that failed with its errno.
struct enter_report { int32_t step, value; };

struct enter {
	int pidfd;              // of the container's init
	int namespaces;         // CLONE_NEW… to join
	int *cgroups;           // open cgroup.procs files
	int n_cgroups;
	const char *label_file; // NULL: no label
	const char *label;
	uint64_t bounding;      // capabilities that may stay
	int no_new_privs;
	struct rlimit rlimits[ENTER_RLIMITS];
	uid_t uid;
	gid_t gid;
	gid_t *groups;
	int n_groups;
	int stdio[3];
	int terminal;           // stdio is a terminal, to be the controlling one
	const char *dir;
	int dir_optional;       // else / will do
	char **paths;           // the program's candidates, NULL at the end
	char **argv, **envp;
	int report;             // write end of a pipe, close-on-exec
};

// enter_start forks the process that enters the container, or gives -errno.
pid_t enter_start(const struct enter *e);

#endif
