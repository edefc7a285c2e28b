{{- define "dockgate.name" -}}
{{- if contains "dockgate" .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}{{ else }}{{ printf "%s-dockgate" .Release.Name | trunc 52 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "dockgate.selector" -}}
app.kubernetes.io/name: dockgate
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "dockgate.labels" -}}
{{ include "dockgate.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "dockgate.image" -}}
{{- if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}{{ else }}{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{- define "dockgate.host" -}}
{{- (urlParse .Values.externalUrl).hostname }}
{{- end }}

{{- define "dockgate.persistent" -}}
{{- if and .Values.cache.enabled .Values.cache.persistent }}true{{ end }}
{{- end }}

{{- define "dockgate.shares" -}}
{{- if .Values.peers.enabled }}{{ if not .Values.cache.enabled }}{{ fail "peers.enabled needs cache.enabled: replicas share what their caches hold" }}{{ end }}true{{ end }}
{{- end }}

{{/* dockgate.toml */}}
{{- define "dockgate.config" -}}
[server]
address = ":5000"
external_url = {{ .Values.externalUrl | quote }}
secret = "${file:/run/secrets/dockgate/secret}"
drain_timeout = "{{ .Values.drainTimeoutSeconds }}s"
{{ with .Values.server }}{{ . | trim }}
{{ end }}
[server.tls]
certificate = "/run/secrets/tls/tls.crt"
key = "/run/secrets/tls/tls.key"

[admin]
address = ":5001"
{{- with .Values.metrics.htpasswdKey }}
htpasswd = "/run/secrets/dockgate/{{ . }}"
{{- end }}

[log]
format = {{ .Values.log.format | quote }}
level = {{ .Values.log.level | quote }}
access = {{ .Values.log.access }}
{{ if .Values.cache.enabled }}
[cache]
path = "/var/lib/dockgate/cache"
max_size = {{ .Values.cache.maxSize | quote }}
keep = {{ .Values.cache.keep | toJson }}
{{- with .Values.cache.store }}
{{- if .url }}

[cache.store]
url = {{ .url | quote }}
endpoint = {{ .endpoint | quote }}
region = {{ .region | quote }}
{{- if .accessKeyKey }}
credentials = { access_key = "${file:/run/secrets/dockgate/{{ .accessKeyKey }}}", secret_key = "${file:/run/secrets/dockgate/{{ required "cache.store.secretKeyKey" .secretKeyKey }}}" }
{{- end }}
{{- with .config }}
{{ . | trim }}
{{- end }}
{{- end }}
{{- end }}
{{ end }}
{{- if include "dockgate.shares" . }}
[peers]
address = ":5003"
members = "dns://{{ include "dockgate.name" . }}-peers:5003"
{{ end }}
{{ .Values.config | trim }}
{{- end }}

{{/* The pod, in a Deployment or in a StatefulSet. */}}
{{- define "dockgate.pod" -}}
metadata:
  labels:
    {{- include "dockgate.labels" . | nindent 4 }}
    {{- with .Values.podLabels }}{{ toYaml . | nindent 4 }}{{ end }}
  {{- with .Values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  automountServiceAccountToken: false
  {{- with .Values.serviceAccountName }}
  serviceAccountName: {{ . }}
  {{- end }}
  enableServiceLinks: false
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  # 5 s of preStop, then up to drain_timeout, and a margin.
  terminationGracePeriodSeconds: {{ add .Values.drainTimeoutSeconds 30 }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: { type: RuntimeDefault }
  {{- with .Values.topologySpread }}
  topologySpreadConstraints:
    - {{- toYaml . | nindent 6 }}
      labelSelector:
        matchLabels:
          {{- include "dockgate.selector" $ | nindent 10 }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: dockgate
      image: {{ include "dockgate.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [serve, --config, /etc/dockgate/dockgate.toml]
      {{- with .Values.extraEnv }}
      env:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      ports:
        - { name: registry, containerPort: 5000 }
        - { name: admin, containerPort: 5001 }
        {{- if include "dockgate.shares" . }}
        - { name: peers, containerPort: 5003 }
        {{- end }}
      startupProbe:
        httpGet: { path: /healthz, port: admin }
        periodSeconds: 1
        timeoutSeconds: 6
        failureThreshold: 60
      livenessProbe:
        httpGet: { path: /healthz, port: admin }
        periodSeconds: 20
        timeoutSeconds: 6
      readinessProbe:
        httpGet: { path: /readyz, port: admin }
        periodSeconds: 5
        timeoutSeconds: 5
      lifecycle:
        preStop:
          sleep: { seconds: 5 } # until the service sends no new connections here
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: { drop: [ALL] }
      # Whole folders, not subPath: only then Kubernetes updates the files, and dockgate sees the change.
      volumeMounts:
        - { name: config, mountPath: /etc/dockgate, readOnly: true }
        - { name: tls, mountPath: /run/secrets/tls, readOnly: true }
        - { name: secrets, mountPath: /run/secrets/dockgate, readOnly: true }
        {{- if .Values.cache.enabled }}
        - { name: cache, mountPath: /var/lib/dockgate }
        {{- end }}
        {{- with .Values.extraVolumeMounts }}{{ toYaml . | nindent 8 }}{{ end }}
  volumes:
    - name: config
      configMap: { name: {{ include "dockgate.name" . }} }
    - name: tls
      secret: { secretName: {{ .Values.tls.secretName }}, defaultMode: 0440 }
    - name: secrets
      secret: { secretName: {{ .Values.secretName }}, defaultMode: 0440 }
    {{- if and .Values.cache.enabled (not .Values.cache.persistent) }}
    - name: cache
      emptyDir: { sizeLimit: {{ .Values.cache.volumeSize }} }
    {{- end }}
    {{- with .Values.extraVolumes }}{{ toYaml . | nindent 4 }}{{ end }}
{{- end }}
